//! What may be written for a consumer, a plan, a label or a namespace: what Kubernetes takes for one.

use compiler::{CONSUMER, PLAN};

/// No value of a label is longer, and no name of one.
const LONGEST: usize = 63;
/// No prefix of a label's name is longer.
const LONGEST_PREFIX: usize = 253;

/// What a consumer or a plan may be called.
pub(super) fn name(text: &str) -> Result<String, String> {
    match is_word(text) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "write 1 to {LONGEST} letters, digits, -, _ and . that begin and end with a letter or \
             digit"
        )),
    }
}

/// What a namespace may be called.
pub(super) fn namespace(text: &str) -> Result<String, String> {
    match text.len() <= LONGEST && !text.contains('.') && is_domain(text) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "write 1 to {LONGEST} characters of a-z, 0-9 and - that begin and end with a letter or digit"
        )),
    }
}

/// A label, `name=value`.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("write name=value, such as team=payments")?;
    match name {
        CONSUMER => return Err("the consumer's name says that".to_owned()),
        PLAN => return Err("--plan says that".to_owned()),
        _ => {}
    }
    let (prefix, word) = match name.split_once('/') {
        Some((prefix, word)) => (Some(prefix), word),
        None => (None, name),
    };
    if prefix == Some("meshwright.dev") {
        return Err("labels of meshwright.dev mean something else to the mesh".to_owned());
    }
    if !is_word(word) || prefix.is_some_and(|prefix| !is_domain(prefix)) {
        return Err(format!(
            "the name before = is none of a label: write 1 to {LONGEST} letters, digits, -, _ and ., \
             after a domain and / if there is one"
        ));
    }
    if !value.is_empty() && !is_word(value) {
        return Err(format!(
            "the value after = is none of a label: write at most {LONGEST} letters, digits, -, _ and ."
        ));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// The name of a key's Secret: where there are letters that a Secret's name has not, others.
pub(super) fn secret(consumer: &str, id: &str) -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        '_' | '.' => '-',
        c => c,
    };
    let consumer: String = consumer.chars().map(plain).collect();
    format!("consumer-{consumer}-{id}")
}

fn is_word(text: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    text.len() <= LONGEST
        && text.starts_with(ends)
        && text.ends_with(ends)
        && text.chars().all(|c| ends(c) || "-_.".contains(c))
}

fn is_domain(text: &str) -> bool {
    let small = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= LONGEST_PREFIX
        && text.split('.').all(|part| {
            part.starts_with(small)
                && part.ends_with(small)
                && part.chars().all(|c| small(c) || c == '-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_value_of_a_label() {
        for right in ["acme", "A.c_m-e", "7", &"a".repeat(63)] {
            assert_eq!(name(right).as_deref(), Ok(right));
        }
        for wrong in [
            "",
            "-acme",
            "acme.",
            "ac me",
            "acmé",
            "a,b=c",
            &"a".repeat(64),
        ] {
            assert!(name(wrong).unwrap_err().starts_with("write 1 to 63 "));
        }
    }

    #[test]
    fn a_namespace_is_a_domains_label() {
        assert_eq!(namespace("shop-2").as_deref(), Ok("shop-2"));
        for wrong in ["", "Shop", "a.b", "a: b", "-a", &"a".repeat(64)] {
            assert!(namespace(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_label_is_what_kubernetes_takes_and_none_of_the_meshs() {
        let both = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(label("team=payments"), both("team", "payments"));
        assert_eq!(label("example.com/team="), both("example.com/team", ""));
        for (wrong, why) in [
            ("team", "name=value"),
            ("meshwright.dev/consumer=acme", "name says that"),
            ("meshwright.dev/plan=gold", "--plan"),
            ("meshwright.dev/credential=x", "something else"),
            ("=x", "before ="),
            ("/x=x", "before ="),
            ("A.com/x=x", "before ="),
            ("a/b/c=x", "before ="),
            ("team=a=b", "after ="),
            ("team=a b", "after ="),
        ] {
            let said = label(wrong).unwrap_err();
            assert!(said.contains(why), "{wrong}: {said}");
        }
    }

    #[test]
    fn a_secret_is_named_as_kubernetes_takes_it() {
        assert_eq!(secret("acme", "k7f3q9ab"), "consumer-acme-k7f3q9ab");
        assert_eq!(secret("A.c_m-e", "k7f3q9ab"), "consumer-a-c-m-e-k7f3q9ab");
    }
}
