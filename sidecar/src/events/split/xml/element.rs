//! An element of XML, all of which is there: whether it is a document.

use bytes::Bytes;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;
use quick_xml::{NsReader, XmlVersion};

use super::super::Wrong;
use super::ATTRIBUTES;

/// What an element becomes: itself, if it is a document.
pub(super) fn read(bytes: &[u8]) -> Result<Bytes, Wrong> {
    let wrong = |why: &str| Wrong::Malformed(why.to_owned());
    let text = str::from_utf8(bytes).map_err(|_| wrong("it is no text in UTF-8"))?;
    let is_char =
        |c: char| (c >= ' ' || "\t\r\n".contains(c)) && !matches!(c, '\u{fffe}' | '\u{ffff}');
    if !text.chars().all(is_char) {
        return Err(wrong("it has a character that XML has not"));
    }
    let mut reader = NsReader::from_str(text);
    reader.config_mut().check_comments = true;
    loop {
        let (of_element, event) = reader
            .read_resolved_event()
            .map_err(|_| wrong("it is not well-formed XML"))?;
        let unknown = matches!(of_element, ResolveResult::Unknown(_));
        match event {
            Event::Eof => return Ok(Bytes::copy_from_slice(bytes)),
            Event::Start(tag) | Event::Empty(tag) => {
                if unknown {
                    return Err(wrong(
                        "an element has a prefix that no namespace is declared for",
                    ));
                }
                if !is_name(tag.name().as_ref()) {
                    return Err(wrong("an element has a name that is none"));
                }
                let tag = tag.into_owned();
                attributes(&tag, &reader)?;
            }
            Event::GeneralRef(reference) => {
                let known = ["lt", "gt", "amp", "apos", "quot"];
                let is_known = known.contains(&&*reference);
                let character = reference.resolve_char_ref();
                if !is_known && !matches!(character, Ok(Some(c)) if is_char(c)) {
                    return Err(wrong(
                        "it refers to an entity that XML does not know by itself",
                    ));
                }
            }
            Event::DocType(_) | Event::Decl(_) => {
                return Err(wrong("it has a declaration in it"));
            }
            _ => {}
        }
    }
}

fn attributes(tag: &BytesStart<'_>, reader: &NsReader<&[u8]>) -> Result<(), Wrong> {
    let wrong = |why: &str| Wrong::Malformed(why.to_owned());
    for (at, attribute) in tag.attributes().enumerate() {
        if at >= ATTRIBUTES {
            return Err(wrong("an element has more than 256 attributes"));
        }
        let attribute =
            attribute.map_err(|_| wrong("the attributes of an element are not well-formed"))?;
        let (resolved, _) = reader.resolver().resolve_attribute(attribute.key);
        if matches!(resolved, ResolveResult::Unknown(_))
            && attribute.key.as_namespace_binding().is_none()
        {
            return Err(wrong(
                "an attribute has a prefix that no namespace is declared for",
            ));
        }
        if !is_name(attribute.key.as_ref()) {
            return Err(wrong("an attribute has a name that is none"));
        }
        let value = attribute.normalized_value(XmlVersion::Explicit1_0);
        if value.is_err() || attribute.value.contains('<') {
            return Err(wrong("the value of an attribute is not well-formed"));
        }
    }
    Ok(())
}

/// Whether something may be a name, as far as ASCII is concerned.
fn is_name(name: &str) -> bool {
    let begins = |c: char| c.is_ascii_alphabetic() || "_:".contains(c) || !c.is_ascii();
    let may_be = |c: char| begins(c) || c.is_ascii_digit() || "-.".contains(c);
    name.starts_with(begins) && name.chars().all(may_be)
}
