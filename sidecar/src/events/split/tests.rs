use proptest::prelude::*;

use super::*;

const MAX: usize = 4096;

fn xml(path: &str) -> Format {
    Format::Xml(Path::read(path).unwrap())
}

/// All records of a body that comes in these pieces, and why there are no more if it is broken.
fn split_at(
    format: &Format,
    max: usize,
    pieces: &mut dyn Iterator<Item = &[u8]>,
) -> (Vec<Record>, Option<Broken>) {
    let (mut splitter, mut records) = (Splitter::new(format, max), Vec::new());
    for mut piece in pieces {
        loop {
            match splitter.next(&mut piece) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => break,
                Err(broken) => return (records, Some(broken)),
            }
        }
        assert!(piece.is_empty());
        // Growing, it may have twice what it needs.
        assert!(
            splitter.held() <= 2 * max + 64 * 1024,
            "{}",
            splitter.held()
        );
    }
    match splitter.end() {
        Ok(record) => records.extend(record),
        Err(broken) => return (records, Some(broken)),
    }
    (records, None)
}

/// Records and the end of a body, which are the same wherever it is cut.
fn split(format: &Format, body: &[u8]) -> (Vec<Record>, Option<Broken>) {
    let whole = split_at(format, MAX, &mut [body].into_iter());
    for at in 0..=body.len() {
        let (one, other) = body.split_at(at);
        let cut = split_at(format, MAX, &mut [one, other].into_iter());
        assert_eq!(
            cut,
            whole,
            "cut at {at} of {:?}",
            String::from_utf8_lossy(body)
        );
    }
    assert_eq!(split_at(format, MAX, &mut body.chunks(1)), whole);
    whole
}

/// What good records become.
fn good(format: &Format, body: &str) -> Vec<String> {
    let (records, broken) = split(format, body.as_bytes());
    assert_eq!(broken, None, "{body}");
    let good = records.into_iter().map(|record| {
        assert_eq!(record.wrong, None, "{body}");
        String::from_utf8(record.data.to_vec()).unwrap()
    });
    good.collect()
}

fn broken(format: &Format, body: &str) -> (usize, &'static str) {
    match split(format, body.as_bytes()) {
        (records, Some(Broken(why))) => (records.len(), why),
        (records, None) => panic!("{body}: {records:?}"),
    }
}

/// Which records are wrong, by their places, and why.
fn wrong(format: &Format, body: &[u8]) -> Vec<Option<String>> {
    let (records, broken) = split(format, body);
    assert_eq!(broken, None);
    let wrong = records.into_iter();
    wrong
        .map(|one| one.wrong.map(|why| why.to_string()))
        .collect()
}

#[test]
fn a_record_is_a_line_of_json() {
    let body = "\u{feff}{\"a\":1}\r\n\n  \n [1, \"\\n\"] \n\"é\"\nnull";
    assert_eq!(
        good(&Format::Ndjson, body),
        ["{\"a\":1}", "[1, \"\\n\"]", "\"é\"", "null"]
    );
    assert_eq!(good(&Format::Ndjson, ""), [""; 0]);
    assert_eq!(good(&Format::Ndjson, "\n\n"), [""; 0]);
    let deep = "[".repeat(128) + &"]".repeat(128);
    let body = [b"1\n{\n\xff\"\n\"\xff\"\n", deep.as_bytes(), b"\n2 3\n4"].concat();
    let wrong = wrong(&Format::Ndjson, &body);
    let is = Vec::from_iter(wrong.iter().map(Option::is_some));
    assert_eq!(is, [false, true, true, true, true, true, false]);
    let said = wrong[1].as_deref().unwrap();
    assert!(said.contains("see line 1, column 1"), "{said}");
}

#[test]
fn a_record_is_an_element_of_the_one_array() {
    let format = Format::JsonArray;
    let body = " [ {\"a\":[1,{\"b\":\"]},[\\\"\"}]} , 2,\"x\\\\\" ,[ ] ] \n";
    assert_eq!(
        good(&format, body),
        ["{\"a\":[1,{\"b\":\"]},[\\\"\"}]}", "2", "\"x\\\\\"", "[ ]"]
    );
    assert_eq!(good(&format, "\u{feff}[]"), [""; 0]);
    assert_eq!(good(&format, "[ \n ] "), [""; 0]);
    // One that is none keeps no other.
    let wrong = wrong(&format, b"[1, tru, {\"a\":1]}, , 5,]".as_slice());
    let is = Vec::from_iter(wrong.iter().map(Option::is_some));
    assert_eq!(is, [false, true, true, true, false, true]);
    for (body, records) in [
        ("", 0),
        ("{}", 0),
        ("[1", 0),
        ("[1,2", 1),
        ("[1]2", 1),
        ("[1][2]", 1),
    ] {
        assert_eq!(broken(&format, body).0, records, "{body}");
    }
}

#[test]
fn a_record_is_a_line_of_csv_and_becomes_an_object() {
    let body =
        "\u{feff}sku,\"na\"\"me\"\r\n1,a\r\n\r\n\"2\",\"a,\"\"b\"\"\r\nc\"\n3,\n\"\",\"\u{1}\"";
    assert_eq!(
        good(&Format::Csv, body),
        [
            r#"{"sku":"1","na\"me":"a"}"#,
            r#"{"sku":"2","na\"me":"a,\"b\"\r\nc"}"#,
            r#"{"sku":"3","na\"me":""}"#,
            r#"{"sku":"","na\"me":"\u0001"}"#,
        ]
    );
    assert_eq!(good(&Format::Csv, "a\n"), [""; 0]);
    // What is wrong with one line is not wrong with the next.
    let body = b"a,b\n1\n1,2,3\n5\",2\n\"1\"x,2\n\xff,2\n1,2\n";
    let wrong_lines = wrong(&Format::Csv, body);
    let is = Vec::from_iter(wrong_lines.iter().map(Option::is_some));
    assert_eq!(is, [true, true, true, true, true, false]);
    assert_eq!(
        wrong_lines[0].as_deref(),
        Some("it has 1 fields, and the header names 2 columns")
    );
    let columns = Vec::from_iter((0..1025).map(|n| n.to_string())).join(",");
    for (body, why) in [
        ("", "has no header"),
        ("\n\n", "has no header"),
        ("a,,c\n", "without a name"),
        ("a,b,a\n", "twice"),
        ("a,\"b\"c\n", "no line of CSV"),
        (&*columns, "1024"),
    ] {
        let (_, said) = broken(&Format::Csv, body);
        assert!(said.contains(why), "{body}: {said}");
    }
}

#[test]
fn a_record_is_an_element_at_a_path() {
    let body = "\u{feff}<?xml version='1.0' encoding=\"UTF-8\"?>\n<!-- <item> --><data xmlns='urn:d' xmlns:x=\"urn:x\">\
                <head><item>no</item></head>\n<items n='>'><item a='/>'>1 &lt; <b/><!-- </item> --></item>text\
                <x:item xmlns:x='urn:y'><item/><![CDATA[</x:item>]]></x:item><item/></items>\
                <?pi <items> ?></data>\n<!-- end -->";
    assert_eq!(
        good(&xml("data/items/item"), body),
        [
            "<item xmlns=\"urn:d\" xmlns:x=\"urn:x\" a='/>'>1 &lt; <b/><!-- </item> --></item>",
            "<x:item xmlns=\"urn:d\" xmlns:x='urn:y'><item/><![CDATA[</x:item>]]></x:item>",
            "<item xmlns=\"urn:d\" xmlns:x=\"urn:x\"/>",
        ]
    );
    // The root itself, and nothing.
    assert_eq!(good(&xml("a"), "<a><a/></a>"), ["<a><a/></a>"]);
    assert_eq!(good(&xml("a/b"), "<a><c><b/></c></a>"), [""; 0]);
    assert_eq!(good(&xml("a/b"), "<a/>"), [""; 0]);
    // What is wrong with one is not wrong with the next.
    let body = b"<a><b x='1' x='2'/><b>&own;</b><b>&#0;</b><b>\x01</b><p:b/><b p:x=''/><b><1/></b><b c='<'/>\
                 <b>\xff</b><b>&#65;&amp;</b></a>";
    let is = Vec::from_iter(wrong(&xml("a/b"), body).iter().map(Option::is_some));
    assert_eq!(
        is,
        [true, true, true, true, true, true, true, true, true, false]
    );
}

#[test]
fn a_document_that_is_none_is_told_and_no_entity_is_expanded() {
    let deep = "<a>".repeat(200);
    let many = format!("<a {}>", "xmlns:aaaaaaaaaaaaaaaa=''".repeat(1000));
    for (body, why) in [
        ("", "ends before"),
        ("<a>", "ends before"),
        ("<a><b></b>", "ends before"),
        ("<a></b>", "not the one that is open"),
        ("<a><b><c></b></a>", "not the one that is open"),
        ("{}", "does not begin with <"),
        ("\0<\0a\0", "does not begin with <"),
        ("<a/><a/>", "follows the end"),
        ("<a/>x", "follows the end"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "document type"),
        ("<a><b><!ENTITY b 'c'></b></a>", "document type"),
        ("<?xml version='1.0' encoding='ISO-8859-1'?><a/>", "UTF-8"),
        ("<a><></a>", "no name"),
        ("<a><b <c></a>", "does not end before"),
        (&*deep, "127"),
        (&*many, "longer than 16384"),
    ] {
        let pieces = &mut [body.as_bytes()].into_iter();
        let (_, broken) = split_at(&xml("a/b"), MAX, pieces);
        let said = broken.expect(body).0;
        assert!(said.contains(why), "{body}: {said}");
    }
}

#[test]
fn a_record_that_is_too_long_is_told_and_the_next_is_read() {
    let long = "x".repeat(2 * MAX);
    for (format, body) in [
        (Format::Ndjson, format!("1\n\"{long}\"\n2\n")),
        (Format::JsonArray, format!("[1,\"{long}\",2]")),
        (Format::Csv, format!("a\n1\n{long}\n2\n")),
        (xml("a/b"), format!("<a><b/><b>{long}</b><b/></a>")),
    ] {
        for size in [1, 7, body.len()] {
            let pieces = &mut body.as_bytes().chunks(size);
            let (records, broken) = split_at(&format, MAX, pieces);
            assert_eq!(broken, None, "{format:?}");
            let wrong = Vec::from_iter(records.iter().map(|record| record.wrong.clone()));
            assert_eq!(wrong, [None, Some(Wrong::Long(MAX)), None], "{format:?}");
            assert_eq!(records[1].data.len(), 0);
        }
    }
    // What it becomes may be longer than what came.
    let body = format!("{},b\n1,2\n", "a".repeat(MAX - 4));
    let (records, _) = split_at(&Format::Csv, MAX, &mut [body.as_bytes()].into_iter());
    assert_eq!(records[0].wrong, Some(Wrong::Long(MAX)));
}

/// Values of JSON, as they are written in a line.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        ".*".prop_map(|text| serde_json::Value::from(text).to_string()),
        Just("null".to_owned()),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|all| format!("[{}]", all.join(" , "))),
            prop::collection::vec((".{0,4}", inner), 0..4).prop_map(|all| {
                let pair = |(name, value): &(String, String)| {
                    format!("{}: {value}", serde_json::Value::from(name.clone()))
                };
                format!("{{{}}}", Vec::from_iter(all.iter().map(pair)).join(","))
            }),
        ]
    })
}

/// A body in pieces of these lengths, over and over.
fn pieces<'b>(body: &'b [u8], lengths: &'b [usize]) -> impl Iterator<Item = &'b [u8]> {
    let (mut rest, mut lengths) = (body, lengths.iter().cycle());
    std::iter::from_fn(move || {
        let length = (*lengths.next()?).min(rest.len());
        let (piece, behind) = rest.split_at(length);
        rest = behind;
        (length > 0).then_some(piece)
    })
}

fn of_records(records: Vec<Record>) -> Vec<String> {
    let text = |record: Record| {
        assert_eq!(record.wrong, None);
        String::from_utf8(record.data.to_vec()).unwrap()
    };
    records.into_iter().map(text).collect()
}

proptest! {
    #[test]
    fn what_was_joined_is_split_again_wherever_it_is_cut(
        values in prop::collection::vec(json(), 0..8),
        lengths in prop::collection::vec(1..40_usize, 1..4),
    ) {
        let lines = values.join("\n");
        let (records, broken) = split_at(&Format::Ndjson, 1 << 20, &mut pieces(lines.as_bytes(), &lengths));
        prop_assert_eq!(broken, None);
        prop_assert_eq!(&of_records(records), &values);
        let array = format!("[{}]", values.join(", "));
        let (records, broken) = split_at(&Format::JsonArray, 1 << 20, &mut pieces(array.as_bytes(), &lengths));
        prop_assert_eq!(broken, None);
        prop_assert_eq!(&of_records(records), &values);
    }

    #[test]
    fn lines_of_csv_that_were_written_are_read_again(
        rows in prop::collection::vec(prop::collection::vec(any::<String>(), 3), 0..6),
        lengths in prop::collection::vec(1..40_usize, 1..4),
    ) {
        let quoted = |row: &Vec<String>| {
            let fields = row.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\"")));
            Vec::from_iter(fields).join(",")
        };
        let body = format!("a,b,c\r\n{}", Vec::from_iter(rows.iter().map(quoted)).join("\r\n"));
        let (records, broken) = split_at(&Format::Csv, 1 << 20, &mut pieces(body.as_bytes(), &lengths));
        prop_assert_eq!(broken, None);
        let read = of_records(records).into_iter().map(|record| {
            let value: serde_json::Value = serde_json::from_str(&record).unwrap();
            Vec::from_iter(["a", "b", "c"].map(|name| value[name].as_str().unwrap().to_owned()))
        });
        prop_assert_eq!(Vec::from_iter(read), rows);
    }

    #[test]
    fn elements_that_were_written_are_read_again(
        texts in prop::collection::vec("[^\\p{Cc}\u{fffe}\u{ffff}]*", 0..6),
        lengths in prop::collection::vec(1..40_usize, 1..4),
    ) {
        let element = |text: &String| {
            let text = quick_xml::escape::escape(text.as_str()).into_owned();
            format!("<r a=\"{text}\">{text}<!-- > --></r>")
        };
        let elements = Vec::from_iter(texts.iter().map(element));
        let body = format!("<all>\n{}</all>", elements.join("<other/>"));
        let (records, broken) = split_at(&xml("all/r"), 1 << 20, &mut pieces(body.as_bytes(), &lengths));
        prop_assert_eq!(broken, None);
        prop_assert_eq!(of_records(records), elements);
    }

    #[test]
    fn nothing_that_comes_ends_it_or_depends_on_where_it_is_cut(
        body in prop::collection::vec(prop_oneof![
            any::<u8>(),
            prop::sample::select(b"<>/!?-[]{},\"'\n\r\\ ab:=&;".to_vec()),
        ], 0..200),
        lengths in prop::collection::vec(1..9_usize, 1..4),
    ) {
        for format in [Format::Ndjson, Format::JsonArray, Format::Csv, xml("a/b"), xml("a")] {
            let mut bodies = vec![body.clone()];
            bodies.push([b"[", &*body].concat());
            bodies.push([b"a\n", &*body].concat());
            bodies.push([b"<a><b>", &*body].concat());
            for body in bodies {
                let whole = split_at(&format, 50, &mut [&*body].into_iter());
                prop_assert_eq!(split_at(&format, 50, &mut pieces(&body, &lengths)), whole);
            }
        }
    }
}
