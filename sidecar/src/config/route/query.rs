//! The parameters of a query, as forms write them: `a=1&b=two+words&c`.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashMap;

use smallvec::SmallVec;

/// The parameters in the order sent, names and values decoded: `+` is a space, `%41` is `A`, and what
/// is no percent-encoding stays as it is (https://url.spec.whatwg.org/#urlencoded-parsing). A
/// parameter without `=` has an empty value.
pub fn parameters(query: &[u8]) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    written(query).map(|(name, value)| (decode(name), decode(value)))
}

/// What a query has to say about the parameters that a route asks for.
#[derive(Debug)]
pub(super) struct Query<'a> {
    sent: Option<&'a str>,
    names: &'a Names,
    /// Filled when first asked for.
    first: OnceCell<First<'a>>,
}

/// By number of the name: the value of the first parameter that has it.
type First<'a> = SmallVec<[Option<Cow<'a, [u8]>>; 8]>;

/// The names of parameters that a route asks for, each with a number, counted from 0.
pub(super) type Names = HashMap<Box<[u8]>, usize>;

// === impl Query ===

impl<'a> Query<'a> {
    pub(super) fn new(sent: Option<&'a str>, names: &'a Names) -> Self {
        Self {
            sent,
            names,
            first: OnceCell::new(),
        }
    }

    /// The value of the first parameter whose name has this number.
    pub(super) fn first(&self, name: usize) -> Option<&[u8]> {
        let first = self.first.get_or_init(|| self.read());
        first.get(name)?.as_deref()
    }

    /// Reads the query once, until all names are found.
    fn read(&self) -> First<'a> {
        let mut first = First::from_elem(None, self.names.len());
        let mut left = first.len();
        for (name, value) in written(self.sent.unwrap_or_default().as_bytes()) {
            if left == 0 {
                break;
            }
            let Some(number) = self.names.get(&*decode(name)) else {
                continue;
            };
            if first[*number].is_none() {
                first[*number] = Some(decode(value));
                left -= 1;
            }
        }
        first
    }
}

/// Names and values as they were sent.
fn written(query: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let parameters = query.split(|byte| *byte == b'&');
    parameters.filter(|one| !one.is_empty()).map(|one| {
        match one.iter().position(|byte| *byte == b'=') {
            Some(place) => (&one[..place], &one[place + 1..]),
            None => (one, &[][..]),
        }
    })
}

fn decode(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(|byte| matches!(byte, b'+' | b'%')) {
        return Cow::Borrowed(text);
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        (rest, _) = match (byte, wire::path::encoded(rest)) {
            (_, Some(byte)) => (&rest[3..], decoded.push(byte)),
            (b'+', None) => (after, decoded.push(b' ')),
            (byte, None) => (after, decoded.push(byte)),
        };
    }
    Cow::Owned(decoded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(query: &str) -> Vec<String> {
        let text = |bytes: Cow<'_, [u8]>| String::from_utf8_lossy(&bytes).into_owned();
        parameters(query.as_bytes())
            .map(|(name, value)| format!("{}:{}", text(name), text(value)))
            .collect()
    }

    #[test]
    fn names_and_values_are_decoded_as_forms_write_them() {
        assert_eq!(
            shown("a=1&&b=two+words%21&c&=d&e==f&%61=%2B&%zz=%4&x;y=1"),
            [
                "a:1",
                "b:two words!",
                "c:",
                ":d",
                "e:=f",
                "a:+",
                "%zz:%4",
                "x;y:1"
            ]
        );
        assert_eq!(shown(""), Vec::<String>::new());
    }

    #[test]
    fn the_first_of_several_counts_and_nothing_is_read_before_it_is_asked_for() {
        let names: Names = [(b"a"[..].into(), 0), (b"b"[..].into(), 1)].into();
        let query = Query::new(Some("x=0&%61=1&a=2&b"), &names);
        assert!(query.first.get().is_none());
        assert_eq!(query.first(0), Some(&b"1"[..]));
        assert_eq!(query.first(1), Some(&b""[..]));
        assert_eq!(Query::new(Some("c=1"), &names).first(0), None);
        assert_eq!(Query::new(None, &names).first(0), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(query in prop::collection::vec(
            prop_oneof![any::<u8>(), prop::sample::select(b"&=+%41;".to_vec())], 0..40,
        )) {
            for (name, value) in parameters(&query) {
                prop_assert!(name.len() + value.len() <= query.len());
            }
        }
    }
}
