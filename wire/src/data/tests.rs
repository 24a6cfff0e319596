use proptest::prelude::*;

use super::*;
use crate::mesh::event_data::Test as Sent;

const STOCK: &str = r#"{"qty": 9, "price": 12.50, "sku": "a-1", "id": "7", "gone": null, "live": true,
    "items": [{"sku": "x", "n": 1}, {"sku": "y", "n": 20}], "a-b": {"\u0063": "it\u00e9m"},
    "empty": {}, "none": [], "big": 9007199254740993, "text": "12"}"#;

fn passes(path: &str, test: Sent, text: &str) -> bool {
    let sent = mesh::EventData {
        path: path.into(),
        test: Some(test),
    };
    let json = Json::read(text.as_bytes()).unwrap();
    Data::build(&sent).unwrap().passes(json)
}

fn equals(path: &str, text: &str) -> bool {
    passes(path, Sent::Equals(text.into()), STOCK)
}

fn exists(path: &str) -> bool {
    let is = passes(path, Sent::Exists(true), STOCK);
    assert_eq!(is, !passes(path, Sent::Exists(false), STOCK), "{path}");
    is
}

#[test]
fn a_path_that_leads_to_one_place_finds_a_scalar_there_as_it_is_written() {
    let found = |path: &str| {
        let path = Path::parse(path).unwrap();
        assert!(path.is_singular());
        path.scalar(Json::read(STOCK.as_bytes()).unwrap())
    };
    for (path, text) in [
        ("$.sku", Some("a-1")),
        ("$['a-b'].c", Some("it\u{e9}m")),
        ("$.price", Some("12.50")),
        ("$.live", Some("true")),
        ("$.items[-1].n", Some("20")),
        ("$.gone", None),
        ("$.items", None),
        ("$.empty", None),
        ("$.other", None),
    ] {
        assert_eq!(found(path).as_deref(), text, "{path}");
    }
    assert!(!Path::parse("$.items[*].n").unwrap().is_singular());
    let twice = Json::read(b"{\"a\":1,\"a\":2}").unwrap();
    assert_eq!(Path::parse("$.a").unwrap().scalar(twice), None);
    let half = Json::read(b"{\"a\":\"\\ud800\"}").unwrap();
    assert_eq!(Path::parse("$.a").unwrap().scalar(half), None);
}

#[test]
fn a_path_leads_down_by_names_places_and_all_of_a_level() {
    for (path, text) in [
        ("$.qty", "9"),
        ("$['qty']", "9"),
        ("$[\"qty\"]", "9"),
        ("$ [ 'qty' ]", "9"),
        ("$['\\u0071ty']", "9"),
        ("$.items[0].sku", "x"),
        ("$.items[1]['n']", "20"),
        ("$.items[-1].sku", "y"),
        ("$.items[-2].sku", "x"),
        ("$.items[*].sku", "x"),
        ("$.items[*].sku", "y"),
        ("$.items[*].*", "20"),
        ("$['a-b'].c", "itém"),
        ("$.*", "a-1"),
    ] {
        assert!(equals(path, text), "{path} {text}");
    }
    for path in [
        "$",
        "$.gone",
        "$.empty",
        "$.none",
        "$.items",
        "$.items[*]",
        "$.live",
    ] {
        assert!(exists(path), "{path}");
    }
    for path in [
        "$.no",
        "$.qty.n",
        "$.qty[0]",
        "$.items.sku",
        "$.items[2]",
        "$.items[-3]",
        "$.none[0]",
        "$.none[-1]",
        "$.none[*]",
        "$.empty.*",
        "$.Qty",
        "$['$.qty']",
        "$.items[9007199254740991]",
    ] {
        assert!(!exists(path), "{path}");
    }
}

#[test]
fn a_string_is_a_text_and_a_number_is_a_number() {
    for (path, text) in [
        ("$.qty", "9.0"),
        ("$.price", "12.5"),
        ("$.sku", "a-1"),
        ("$.text", "12"),
        ("$.live", "true"),
        ("$.gone", "null"),
        ("$.big", "9007199254740993"),
    ] {
        assert!(equals(path, text), "{path} {text}");
    }
    for (path, text) in [
        ("$.qty", "90"),
        ("$.text", "12.0"),
        ("$.live", "True"),
        ("$.gone", ""),
        ("$.items", "[]"),
        ("$.empty", "{}"),
        ("$.big", "9007199254740992"),
        ("$.sku", "\"a-1\""),
    ] {
        assert!(!equals(path, text), "{path} {text}");
    }
}

#[test]
fn numbers_are_compared_and_nothing_else_is() {
    let less = |path, text: &str| passes(path, Sent::LessThan(text.into()), STOCK);
    assert!(less("$.qty", "10"));
    assert!(!less("$.qty", "9"));
    assert!(!less("$.text", "100"), "a string is no number");
    assert!(!less("$.gone", "1"));
    assert!(!less("$.no", "1"));
    assert!(less("$.big", "9007199254740993.1"));
    assert!(passes("$.qty", Sent::LessThanOrEqual("9".into()), STOCK));
    assert!(passes(
        "$.qty",
        Sent::GreaterThanOrEqual("9.00".into()),
        STOCK
    ));
    assert!(!passes("$.qty", Sent::GreaterThan("9".into()), STOCK));
    // One of several is enough.
    assert!(passes(
        "$.items[*].n",
        Sent::GreaterThan("19".into()),
        STOCK
    ));
    assert!(!passes(
        "$.items[*].n",
        Sent::GreaterThan("20".into()),
        STOCK
    ));
}

#[test]
fn a_member_that_stands_twice_passes_nothing() {
    let twice = r#"{"a": {"n": 1, "\u006e": 1}, "b": 1}"#;
    assert!(!passes("$.a.n", Sent::Equals("1".into()), twice));
    assert!(!passes("$.a.n", Sent::Exists(true), twice));
    assert!(!passes("$.a.m.n", Sent::Equals("1".into()), twice));
    assert!(!passes("$.a.n", Sent::Exists(false), twice));
    // Where the path does not lead, nobody asks.
    assert!(passes("$.b", Sent::Equals("1".into()), twice));
    assert!(passes("$.a.m", Sent::Exists(false), twice));
}

#[test]
fn what_is_no_json_or_too_long_is_not_looked_into() {
    let long = format!("\"{}\"", "a".repeat(Json::MAX_LENGTH));
    for none in ["", "{", "{\"a\": 01}", "[1,]", "1 2", "\u{feff}1", &long] {
        assert!(Json::read(none.as_bytes()).is_none());
    }
    assert!(Json::read(b"\"\xff\"").is_none());
    assert!(passes("$", Sent::Equals("1".into()), " 1\n"));
}

#[test]
fn data_may_be_as_deep_as_they_are_long() {
    let deep = format!("{}{}", "[".repeat(500_000), "]".repeat(500_000));
    let deep = format!(r#"{{"a": {deep}, "b": 1}}"#);
    assert!(passes("$.b", Sent::Equals("1".into()), &deep));
    assert!(passes("$.a[-1][-1][0][*]", Sent::Exists(true), &deep));
}

#[test]
fn what_is_no_path_is_told_with_its_place() {
    let told = |path: &str| Path::parse(path).unwrap_err().to_string();
    for (path, at, why) in [
        ("", 1, "begins with $"),
        ("qty", 1, "begins with $"),
        ("$.", 3, "after . stands a name"),
        ("$.é.1a", 5, "after . stands a name"),
        ("$.a-b", 4, "begins with . or ["),
        ("$..a", 3, "searches at any depth"),
        ("$.a[?@.b]", 5, "expressions (?)"),
        ("$.a[1:2]", 6, "slices"),
        ("$.a[:2]", 5, "slices"),
        ("$.a[1,2]", 6, "join filters with any"),
        ("$.a[a]", 5, "in brackets stand"),
        ("$.a[01]", 7, "a place is a whole number"),
        ("$.a[-0]", 7, "a place is a whole number"),
        ("$.a[9007199254740992]", 21, "a place is a whole number"),
        ("$.a[1", 6, "a ] is expected"),
        ("$['a", 5, "does not end"),
        ("$['\\x']", 5, "behind \\ stands"),
        ("$['\\ud800']", 10, "four digits of base 16"),
        ("$['\\udc00']", 10, "four digits of base 16"),
        ("$.a ", 5, "ends with no space"),
    ] {
        let told = told(path);
        assert!(
            told.starts_with(&format!("at character {at}: ")),
            "{path}: {told}"
        );
        assert!(told.contains(why), "{path}: {told}");
    }
    assert!(told(&format!("${}", ".a".repeat(17))).contains("16 steps at most"));
    assert!(told(&format!("$.{}", "a".repeat(512))).contains("longer than 512"));
    let whole = Path::parse(r#"$['\u00e9\ud83d\ude00\n\'']"#).unwrap();
    assert_eq!(whole.steps(), [path::Step::Name("é😀\n'".into())]);
}

#[test]
fn what_is_compared_with_a_number_is_one() {
    let sent = mesh::EventData {
        path: "$.a".into(),
        test: Some(Sent::LessThan("ten".into())),
    };
    let told = Data::build(&sent).unwrap_err();
    assert!(told.starts_with("lessThan: it is no number"), "{told}");
    let sent = mesh::EventData { test: None, ..sent };
    assert!(Data::build(&sent).is_err());
}

proptest! {
    #[test]
    fn no_path_panics(text in "[$.\\[\\]'\"*a1\\-\\\\ué:?, ]{0,24}") {
        drop(Path::parse(&text));
    }

    #[test]
    fn what_a_path_leads_to_is_what_serde_json_finds(
        text in "[\\[\\]{}\",:a1\\\\ .\\-e]{0,16}",
        place in 0_usize..3,
    ) {
        let Some(json) = Json::read(text.as_bytes()) else { return Ok(()) };
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut found = Vec::new();
        let _ = json.at(&[path::Step::Place(place)], &mut |one| found.push(one));
        let expected = value.as_array().and_then(|all| all.get(place));
        let found = found.first().map(|one| serde_json::from_str::<serde_json::Value>(one).unwrap());
        prop_assert_eq!(found.as_ref(), expected);
    }
}
