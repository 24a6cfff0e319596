use super::*;
use proptest::prelude::*;

const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

/// The trace id, and the `traceparent` and `tracestate` that are passed on.
fn passed(lines: &[(&str, &str)]) -> (String, String, Option<String>) {
    let mut headers = headers(lines);
    let trace = Trace::of(&mut headers);
    let text = |name: &str| {
        assert!(headers.get_all(name).iter().nth(1).is_none(), "two {name}");
        let value = headers.get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    let parent = text("traceparent").unwrap();
    (trace.trace_id().to_owned(), parent, text("tracestate"))
}

fn begins_anew(parent: &str) {
    let state = ("tracestate", "a=1");
    let (id, passed, state) = passed(&[("traceparent", parent), state]);
    assert_ne!(passed, parent);
    assert!(!parent.contains(&id), "{parent}: its id is used");
    assert!(passed.ends_with("-00"), "{passed}");
    assert_eq!(state, None, "{parent}: a list without its context");
}

#[test]
fn a_valid_context_passes_unchanged_and_uncopied() {
    let mut headers = headers(&[
        ("traceparent", VALID),
        ("tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        ("x-request-id", "from-the-caller"),
    ]);
    let before = headers.clone();
    let at = |headers: &HeaderMap| {
        let places = headers.values().map(|value| value.as_bytes().as_ptr());
        places.collect::<Vec<_>>()
    };
    let places = at(&headers);
    let trace = Trace::of(&mut headers);
    assert_eq!(trace.trace_id(), ID);
    assert_eq!(trace.request_id(), "from-the-caller");
    assert_eq!(headers, before);
    assert_eq!(at(&headers), places);
}

#[test]
fn an_invalid_context_begins_anew_and_takes_its_list_along() {
    for parent in [
        "",
        "00",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473-000f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.more",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01,00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ] {
        begins_anew(parent);
    }
}

#[test]
fn a_context_of_a_later_version_passes_unchanged() {
    for parent in [
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-what.will.be",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03",
    ] {
        let passed = passed(&[("traceparent", parent), ("tracestate", "a=1")]);
        assert_eq!(passed, (ID.into(), parent.into(), Some("a=1".into())));
    }
}

#[test]
fn two_contexts_are_none() {
    let lines = [("traceparent", VALID), ("traceparent", VALID)];
    let (id, parent, _) = passed(&lines);
    assert_ne!(id, ID);
    assert!(parent.contains(&id));
}

#[test]
fn lists_are_joined_in_order_and_one_that_is_malformed_goes() {
    let state = |lists: &[&str]| {
        let mut lines = vec![("traceparent", VALID)];
        lines.extend(lists.iter().map(|list| ("tracestate", *list)));
        let (id, parent, state) = passed(&lines);
        assert_eq!((id.as_str(), parent.as_str()), (ID, VALID));
        state
    };
    assert_eq!(state(&["a=1", "b=2,c=3"]).unwrap(), "a=1,b=2,c=3");
    assert_eq!(state(&["a=1 , \t b=2,,"]).unwrap(), "a=1 , \t b=2,,");
    assert_eq!(state(&["a=1,", " b=2"]).unwrap(), "a=1,b=2");
    assert_eq!(state(&["0@v/*-_=!x y"]).unwrap(), "0@v/*-_=!x y");
    for malformed in [
        "", ",", "a", "=1", "a=", "A=1", "a=1=2", "a b=1", "@a=1", "a=\u{e9}",
    ] {
        assert_eq!(state(&[malformed]), None, "{malformed}");
        if malformed.contains(char::is_alphanumeric) {
            assert_eq!(state(&["fine=1", malformed]), None, "{malformed}");
        }
    }
    let members = |count: usize| (0..count).map(|i| format!("k{i}=v")).collect::<Vec<_>>();
    assert_eq!(
        state(&[&members(32).join(",")]).unwrap(),
        members(32).join(",")
    );
    assert_eq!(state(&[&members(33).join(",")]), None);
    let long = format!("{}=1", "k".repeat(257));
    assert_eq!(state(&[&long]), None);
}

#[test]
fn of_a_list_that_is_too_long_long_members_go_first_and_then_the_last() {
    let state = |list: &str| passed(&[("traceparent", VALID), ("tracestate", list)]).2;
    let member = |key: &str, length: usize| format!("{key}={}", "v".repeat(length - key.len() - 1));
    let [a, b, c] = ["a", "b", "c"].map(|key| member(key, 100));
    let long = member("long", 200);
    let [x, y] = ["x", "y"].map(|key| member(key, 100));
    assert_eq!(
        state(&[&*a, &long, &b, &c, &x].join(",")).unwrap(),
        [&*a, &b, &c, &x].join(",")
    );
    let z = member("z", 12);
    assert_eq!(
        state(&[&*a, &b, &c, &x, &y, &z].join(",")).unwrap(),
        [&*a, &b, &c, &x, &y].join(",")
    );
    let all_long = ["p", "q", "r"].map(|key| member(key, 250));
    assert_eq!(state(&all_long.join(",")).unwrap(), all_long[..2].join(","));
}

#[test]
fn b3_becomes_a_context_where_there_is_no_other_and_stays() {
    let parent = |lines: &[(&str, &str)]| {
        let mut headers = headers(lines);
        Trace::of(&mut headers);
        for (name, value) in lines.iter().filter(|(name, _)| name.contains("b3")) {
            assert_eq!(headers[*name], value);
        }
        headers["traceparent"].to_str().unwrap().to_owned()
    };
    let single = |b3: &str| parent(&[("b3", b3)]);
    let unsampled = VALID.replace("-01", "-00");
    let ids = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
    assert_eq!(single(&format!("{ids}-1")), VALID);
    assert_eq!(single(&format!("{ids}-d-00f067aa0ba902b8")), VALID);
    assert_eq!(single(&format!("{ids}-0")), unsampled);
    assert_eq!(single(ids), unsampled);
    assert_eq!(
        single("a3ce929d0e0e4736-00f067aa0ba902b7-1"),
        "00-0000000000000000a3ce929d0e0e4736-00f067aa0ba902b7-01"
    );
    // A decision alone begins a trace that keeps it.
    assert!(single("1").ends_with("-01"));
    assert!(single("0").ends_with("-00"));
    for wrong in [
        "",
        "-",
        "2",
        &format!("{ids}-x"),
        &format!("{ids}-1-"),
        &format!("{ids}-1-00f067aa0ba902b8-1"),
        "0000000000000000-00f067aa0ba902b7-1",
    ] {
        let begun = single(wrong);
        assert!(
            !begun.contains("00f067aa0ba902b7") && begun.ends_with("-00"),
            "{wrong}: {begun}"
        );
    }

    let multiple = [("x-b3-traceid", ID), ("x-b3-spanid", "00f067aa0ba902b7")];
    let with = |more: &[(&'static str, &'static str)]| parent(&[&multiple, more].concat());
    assert_eq!(with(&[("x-b3-sampled", "1")]), VALID);
    assert_eq!(with(&[("x-b3-flags", "1")]), VALID);
    assert_eq!(with(&[("x-b3-sampled", "0")]), unsampled);
    assert_eq!(with(&[]), unsampled);
    // The single header comes first, a valid context before both.
    let other = "b".repeat(32);
    assert_eq!(
        parent(&[
            ("b3", &format!("{other}-00f067aa0ba902b7")),
            multiple[0],
            multiple[1]
        ]),
        unsampled.replace(ID, &other)
    );
    assert_eq!(
        parent(&[
            ("traceparent", VALID),
            ("b3", &format!("{other}-00f067aa0ba902b7"))
        ]),
        VALID
    );
    // One that is not valid is replaced by B3.
    assert_eq!(
        parent(&[("traceparent", "x"), ("b3", &format!("{ids}-1"))]),
        VALID
    );
}

#[test]
fn a_request_id_is_kept_when_it_is_short_and_printable() {
    let id = |ids: &[&str]| {
        let lines: Vec<_> = ids.iter().map(|id| ("x-request-id", *id)).collect();
        let mut headers = headers(&lines);
        let trace = Trace::of(&mut headers);
        assert_eq!(headers.get_all("x-request-id").iter().count(), 1);
        assert_eq!(headers["x-request-id"], trace.request_id());
        trace.request_id().to_owned()
    };
    let longest = "x".repeat(128);
    for kept in ["1", "Root=1-67891233-abcdef", &longest] {
        assert_eq!(id(&[kept]), kept);
    }
    let too_long = "x".repeat(129);
    for replaced in [
        &["two", "ids"][..],
        &[],
        &[""],
        &["a b"],
        &["a\tb"],
        &["\u{e9}"],
        &[&too_long],
    ] {
        let made = id(replaced);
        assert_eq!(made.len(), 36, "{made}");
        let is_dash = |(at, c): (usize, char)| (c == '-') == matches!(at, 8 | 13 | 18 | 23);
        assert!(made.char_indices().all(is_dash), "{made}");
        assert_eq!(&made[14..15], "4");
        assert!("89ab".contains(&made[19..20]), "{made}");
        assert_ne!(made, id(replaced), "the same twice");
    }
}

/// Headers as strangers send them: ours by name, with almost or entirely arbitrary values.
fn strange() -> impl Strategy<Value = HeaderMap> {
    let name = prop::sample::select(vec![
        "traceparent",
        "traceparent",
        "tracestate",
        "tracestate",
        "x-request-id",
        "b3",
        "x-b3-traceid",
        "x-b3-spanid",
        "x-b3-sampled",
        "x-b3-flags",
        "other",
    ]);
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80),
        "[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.{0,9})?".prop_map(String::into_bytes),
        "[0-9a-f]{0,3}[-_,][0-9a-f]{30,34}-[0-9a-fA-F]{15,17}-?[0-9a-f]{0,3}"
            .prop_map(String::into_bytes),
        "([a-z0-9@]{1,9}[ =]{1,2}[ -~]{0,60} ?,){0,12}".prop_map(String::into_bytes),
        "([a-z]{1,9}=[a-z]{1,150},){0,40}".prop_map(String::into_bytes),
    ];
    prop::collection::vec((name, value), 0..8).prop_map(|lines| {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.append(name, value);
            }
        }
        headers
    })
}

proptest! {
    #[test]
    fn whatever_comes_one_valid_context_goes_on_and_the_next_hop_keeps_it(mut headers in strange()) {
        let before = headers.clone();
        let trace = Trace::of(&mut headers);

        let parents: Vec<_> = headers.get_all("traceparent").iter().collect();
        prop_assert_eq!(parents.len(), 1);
        let parent = parents[0].as_bytes();
        prop_assert_eq!(&parent[3..35], trace.trace_id().as_bytes());
        prop_assert!(trace.trace_id().bytes().all(|b| b.is_ascii_hexdigit()));
        prop_assert_ne!(trace.trace_id(), "0".repeat(32));

        let states: Vec<_> = headers.get_all("tracestate").iter().collect();
        prop_assert!(states.len() <= 1);
        for state in states {
            let state = state.to_str().unwrap();
            prop_assert!(state.len() <= 512);
            let members = state.split(',').filter(|member| !member.trim().is_empty());
            prop_assert!((1..=32).contains(&members.clone().count()));
            prop_assert!(members.into_iter().all(|member| member.matches('=').count() == 1));
        }

        prop_assert_eq!(headers.get_all("x-request-id").iter().count(), 1);
        prop_assert!((1..=128).contains(&trace.request_id().len()));
        prop_assert!(trace.request_id().bytes().all(|b| b.is_ascii_graphic()));

        for name in ["b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags", "other"] {
            let values = |headers: &HeaderMap| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
            prop_assert_eq!(values(&headers), values(&before));
        }

        let after = headers.clone();
        let next = Trace::of(&mut headers);
        prop_assert_eq!(headers, after);
        prop_assert_eq!(next.trace_id(), trace.trace_id());
        prop_assert_eq!(next.request_id(), trace.request_id());
        prop_assert_eq!(next.lot(), trace.lot());
    }

    #[test]
    fn no_bytes_make_a_context_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = trace_id(&bytes);
        let _ = b3_single(&bytes);
        let _ = is_member(&bytes);
    }
}
