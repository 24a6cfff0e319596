//! CloudEvents SQL as its own authors test it: the cases of their compatibility kit, which stands in a Go module.

use std::borrow::Cow;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Map, Value as Json, json};
use wire::cesql::{Attributes, Expression, Fault, Value};

/// The event of a case that says nothing of its own.
fn any_event() -> Map<String, Json> {
    let event = json!({
        "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "subject": "s",
        "time": "2026-01-01T00:00:00Z", "datacontenttype": "text/plain",
    });
    event.as_object().cloned().unwrap_or_default()
}

struct Event(Map<String, Json>);

impl Attributes for Event {
    fn attribute(&self, name: &str) -> Option<Value<'_>> {
        self.0.get(name).map(value)
    }
}

fn value(json: &Json) -> Value<'_> {
    match json {
        Json::String(text) => Value::String(Cow::Borrowed(text)),
        Json::Bool(value) => Value::Boolean(*value),
        json => {
            let number = json.as_i64().and_then(|number| i32::try_from(number).ok());
            Value::Integer(number.unwrap_or_else(|| panic!("{json} is no value")))
        }
    }
}

/// The folder of the kit, which Go brings and keeps.
fn kit() -> PathBuf {
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/cesql");
    let module = "github.com/cloudevents/sdk-go/sql/v2";
    let mut go = Command::new("go");
    let download = go.args(["mod", "download", "-json", module]);
    let output = download.current_dir(here).output().expect("go");
    let said: Json = serde_json::from_slice(&output.stdout).expect("what go says");
    let folder = said["Dir"].as_str().unwrap_or_else(|| panic!("{said}"));
    PathBuf::from(folder).join("test/tck")
}

/// What an expression comes to: a value, and the kit's word for what went wrong.
fn outcome(expression: &str, event: &Event, check: impl FnOnce(&Value<'_>, Option<&str>)) {
    let read = match Expression::parse(expression) {
        Ok(read) => read,
        Err(error) => {
            let word = match error.missing_function {
                true => "missingFunction",
                false => "parse",
            };
            return check(&Value::Boolean(false), Some(word));
        }
    };
    match read.evaluate(event) {
        Ok(value) => check(&value, None),
        Err(failed) => {
            let word = match failed.fault {
                Fault::Math => "math",
                Fault::Cast => "cast",
                Fault::MissingAttribute => "missingAttribute",
                Fault::FunctionEvaluation => "functionEvaluation",
            };
            check(&failed.value, Some(word));
        }
    }
}

#[test]
fn every_case_of_the_compatibility_kit_has_its_value_and_its_error() {
    let (mut cases, mut wrong) = (0, Vec::new());
    for entry in std::fs::read_dir(kit()).expect("the kit") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|is| is != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a file");
        let file = path.display().to_string();
        let documents = compiler::yaml::values(&file, &text).expect("YAML");
        let tests = documents[0]["tests"].as_array().expect("tests");
        for case in tests {
            cases += 1;
            let mut event = case["event"].as_object().cloned().unwrap_or_else(any_event);
            event.extend(
                case["eventOverrides"]
                    .as_object()
                    .cloned()
                    .unwrap_or_default(),
            );
            let expression = match &case["expression"] {
                Json::String(text) => text.clone(),
                other => other.to_string(),
            };
            outcome(&expression, &Event(event), |is, error| {
                // Of a text that is no expression, the kit mostly names no value.
                let as_told = case.get("result").is_none_or(|told| *is == value(told));
                if !as_told || error != case["error"].as_str() {
                    wrong.push(format!("{case}: {is:?}, {error:?}"));
                }
            });
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases >= 275, "only {cases} cases");
}

/// What an event of these attributes comes to.
fn passes(expression: &str, attributes: Json) -> bool {
    let attributes = attributes.as_object().cloned().expect("attributes");
    let read =
        Expression::parse(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    read.passes(&Event(attributes))
}

#[test]
fn an_event_for_which_something_goes_wrong_passes_no_filter() {
    let event = || json!({ "id": "1", "type": "t", "qty": "many" });
    assert!(passes("type = 't'", event()));
    for fails in [
        "NOT missing",
        "missing != 'x'",
        "qty <> 1",
        "1 / 0 = 0",
        "id",
    ] {
        assert!(!passes(fails, event()), "{fails}");
    }
    // What decides is what is read: the rest is not.
    assert!(passes("type = 't' OR 1 / 0 = 0", event()));
    assert!(!passes("type = 'u' AND 1 / 0 = 0", event()));
}

#[test]
fn a_number_that_leaves_32_bits_is_an_error_and_no_other_number() {
    for expression in [
        "2147483647 + 1",
        "-2147483648 - 1",
        "65536 * 65536",
        "-2147483648 / -1",
        "- (-2147483648)",
    ] {
        outcome(expression, &Event(Map::new()), |is, error| {
            assert_eq!(
                (is, error),
                (&Value::Integer(0), Some("math")),
                "{expression}"
            );
        });
    }
}

#[test]
fn what_is_no_expression_is_told_with_its_place_and_what_is_expected() {
    for (text, told) in [
        (
            "",
            "at character 1: a value is expected, and the end is there",
        ),
        (
            "type = ",
            "at character 8: a value is expected, and the end is there",
        ),
        (
            "type == 't'",
            "at character 7: a value is expected, and `=` is there",
        ),
        (
            "(type = 't'",
            "at character 12: `)` is expected, and the end is there",
        ),
        (
            "type = 't' id",
            "at character 12: an operator, or the end is expected, and `id` is there",
        ),
        (
            "type NOT 't'",
            "at character 10: LIKE or IN is expected, and a string is there",
        ),
        (
            "'é' = 't",
            "at character 7: the string that begins with ' has no end",
        ),
        (
            "type = 't' && id",
            "at character 12: & means nothing here; strings stand in quotes",
        ),
        (
            "my_attribute = 1",
            "at character 1: my_attribute is no attribute: those have letters and digits alone",
        ),
        (
            "2147483648 = 1",
            "at character 1: 2147483648 is no whole number of 32 bits",
        ),
        ("LOUD(type)", "at character 1: there is no function LOUD"),
        (
            "ABS()",
            "at character 1: ABS takes another number of arguments than 0",
        ),
        (
            "id IN ()",
            "at character 8: a value is expected, and `)` is there",
        ),
    ] {
        let error = Expression::parse(text).expect_err(text);
        assert_eq!(error.to_string(), told, "{text}");
    }
}

#[test]
fn an_expression_has_bounds() {
    let depth = |levels: usize| "(".repeat(levels) + "TRUE" + &")".repeat(levels);
    assert!(Expression::parse(&depth(wire::cesql::MAX_DEPTH)).is_ok());
    let long = format!("type = '{}'", "x".repeat(wire::cesql::MAX_LENGTH));
    let many = "1 + ".repeat(wire::cesql::MAX_TERMS) + "1";
    let deep = [
        depth(wire::cesql::MAX_DEPTH + 1),
        "NOT ".repeat(wire::cesql::MAX_DEPTH + 1) + "TRUE",
        "-".repeat(wire::cesql::MAX_DEPTH + 1) + "x",
    ];
    for beyond in deep.iter().chain([&long, &many]) {
        let error = Expression::parse(beyond).expect_err("it is beyond the bounds");
        assert!(
            error.why.contains("more than") || error.why.contains("longer"),
            "{error}"
        );
    }
}

#[test]
fn operators_of_logic_bind_alike_and_from_the_right_and_a_mixture_can_be_noticed() {
    // As the grammar of the specification has it.
    for (text, value) in [
        ("FALSE AND FALSE OR TRUE", false),
        ("(FALSE AND FALSE) OR TRUE", true),
        ("TRUE XOR TRUE AND FALSE", true),
        ("TRUE XOR TRUE XOR TRUE", true),
        ("TRUE XOR FALSE OR TRUE", false),
    ] {
        assert_eq!(passes(text, json!({})), value, "{text}");
        let read = Expression::parse(text).expect(text);
        let mixed = !text.contains('(') && text != "TRUE XOR TRUE XOR TRUE";
        assert_eq!(read.mixes_logic(), mixed, "{text}");
    }
}
