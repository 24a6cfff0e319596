//! Words, numbers, strings and signs of an expression.

use super::Unreadable;

/// A token, and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token<'t> {
    /// Which character of the text, from 1.
    pub(super) at: usize,
    pub(super) what: What<'t>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What<'t> {
    /// Letters, digits and underscores, of which one at least is no digit.
    Word(&'t str),
    Digits(&'t str),
    /// Without its quotes, and with `\'` or `\"` as what they stand for.
    String(String),
    Sign(&'t str),
}

const SIGNS: [&str; 15] = [
    "<=", ">=", "<>", "!=", "(", ")", ",", "+", "-", "*", "/", "%", "=", "<", ">",
];

/// All tokens of a text.
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, Unreadable> {
    let mut tokens = Vec::new();
    let (mut rest, mut at) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let (what, after) = match first {
            ' ' | '\t' | '\r' | '\n' => {
                (rest, at) = (&rest[1..], at + 1);
                continue;
            }
            '\'' | '"' => string(rest, first).ok_or_else(|| Unreadable {
                at,
                why: format!("the string that begins with {first} has no end"),
                missing_function: false,
            })?,
            c if is_of_word(c) => {
                let end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                let digits = word.bytes().all(|byte| byte.is_ascii_digit());
                let what = if digits {
                    What::Digits(word)
                } else {
                    What::Word(word)
                };
                (what, after)
            }
            _ => {
                let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
                let sign = sign.ok_or_else(|| Unreadable {
                    at,
                    why: format!("{first} means nothing here; strings stand in quotes"),
                    missing_function: false,
                })?;
                (What::Sign(sign), &rest[sign.len()..])
            }
        };
        let length = rest[..rest.len() - after.len()].chars().count();
        tokens.push(Token { at, what });
        (rest, at) = (after, at + length);
    }
    Ok(tokens)
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The string at the beginning of `text`, and what follows it. A backslash keeps the character after it from
/// ending the string; it goes where that is the quote, and stays elsewhere, as patterns of LIKE need it.
fn string(text: &str, quote: char) -> Option<(What<'_>, &str)> {
    let mut value = String::new();
    let mut left = text[1..].chars();
    loop {
        match left.next()? {
            c if c == quote => return Some((What::String(value), left.as_str())),
            '\\' => match left.next()? {
                c if c == quote => value.push(c),
                c => value.extend(['\\', c]),
            },
            c => value.push(c),
        }
    }
}
