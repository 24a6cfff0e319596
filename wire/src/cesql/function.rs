//! The functions that every implementation has (section 3.5), and those that cast.

use std::borrow::Cow;

use super::value::Kind;
use super::{Evaluated, Failed, Fault, Node, Value};

/// The longest string that a function makes, in bytes: longer than any attribute of an event.
const LONGEST: usize = 64 * 1024;

/// A function of a fixed number of arguments, and any number more where it is `variadic`.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: &'static str,
    takes: &'static [Kind],
    variadic: Option<Kind>,
    pub(super) returns: Kind,
    run: Run,
}

/// What a function does with arguments that are of its types.
type Run = for<'e> fn(Vec<Value<'e>>) -> Evaluated<'e>;

const fn fixed(name: &'static str, takes: &'static [Kind], returns: Kind, run: Run) -> Function {
    Function {
        name,
        takes,
        variadic: None,
        returns,
        run,
    }
}

const fn variadic(name: &'static str, takes: &'static [Kind], run: Run) -> Function {
    Function {
        name,
        takes,
        variadic: Some(Kind::String),
        returns: Kind::String,
        run,
    }
}

static FUNCTIONS: [Function; 14] = [
    fixed("INT", &[Kind::Integer], Kind::Integer, same),
    fixed("BOOL", &[Kind::Boolean], Kind::Boolean, same),
    fixed("STRING", &[Kind::String], Kind::String, same),
    fixed("ABS", &[Kind::Integer], Kind::Integer, abs),
    fixed("LENGTH", &[Kind::String], Kind::Integer, length),
    variadic("CONCAT", &[], |all| joined("", &all)),
    variadic("CONCAT_WS", &[Kind::String], |all| match &*all {
        [Value::String(between), all @ ..] => joined(between, all),
        _ => joined("", &[]),
    }),
    fixed("LOWER", &[Kind::String], Kind::String, |of| {
        made(|text| text.to_lowercase(), of)
    }),
    fixed("UPPER", &[Kind::String], Kind::String, |of| {
        made(|text| text.to_uppercase(), of)
    }),
    fixed("TRIM", &[Kind::String], Kind::String, |of| {
        part(of, |text, _, _| Ok(text.trim()))
    }),
    fixed("LEFT", &[Kind::String, Kind::Integer], Kind::String, |of| {
        part(of, |text, count, _| {
            let count = usize::try_from(count).map_err(|_| text)?;
            Ok(&text[..at(text, count)])
        })
    }),
    fixed(
        "RIGHT",
        &[Kind::String, Kind::Integer],
        Kind::String,
        |of| {
            part(of, |text, count, _| {
                let count = usize::try_from(count).map_err(|_| text)?;
                let before = text.chars().count().saturating_sub(count);
                Ok(&text[at(text, before)..])
            })
        },
    ),
    fixed(
        "SUBSTRING",
        &[Kind::String, Kind::Integer],
        Kind::String,
        |of| part(of, |text, position, _| substring(text, position, i32::MAX)),
    ),
    fixed(
        "SUBSTRING",
        &[Kind::String, Kind::Integer, Kind::Integer],
        Kind::String,
        |of| part(of, substring),
    ),
];

// === impl Function ===

impl Function {
    /// The function of that name, in any case, that takes so many arguments.
    pub(super) fn named(name: &str, arguments: usize) -> Option<&'static Self> {
        FUNCTIONS.iter().find(|one| {
            let takes = one.takes.len();
            let fits = takes == arguments || (one.variadic.is_some() && takes < arguments);
            fits && one.name.eq_ignore_ascii_case(name)
        })
    }

    /// Whether there is one of that name at all.
    pub(super) fn exists(name: &str) -> bool {
        FUNCTIONS
            .iter()
            .any(|one| one.name.eq_ignore_ascii_case(name))
    }

    /// Its value, with arguments that `read` has as the types it takes.
    pub(super) fn call<'e>(
        &self,
        arguments: &'e [Node],
        read: impl Fn(&'e Node, Kind) -> Evaluated<'e>,
    ) -> Evaluated<'e> {
        let kinds = self.takes.iter().copied();
        let kinds = kinds.chain(std::iter::repeat_n(
            Kind::String,
            arguments.len().saturating_sub(self.takes.len()),
        ));
        let read = arguments
            .iter()
            .zip(kinds)
            .map(|(argument, kind)| read(argument, kind));
        let arguments = read.collect::<Result<Vec<_>, _>>()?;
        (self.run)(arguments)
    }
}

/// What it was cast to already.
fn same(mut of: Vec<Value<'_>>) -> Evaluated<'_> {
    of.pop()
        .ok_or(Kind::Boolean.failed(Fault::FunctionEvaluation))
}

fn abs(of: Vec<Value<'_>>) -> Evaluated<'_> {
    let [Value::Integer(of)] = *of else {
        return Err(Kind::Integer.failed(Fault::FunctionEvaluation));
    };
    of.checked_abs().map(Value::Integer).ok_or(Failed {
        fault: Fault::Math,
        value: Value::Integer(i32::MAX),
    })
}

fn length(of: Vec<Value<'_>>) -> Evaluated<'_> {
    let [Value::String(of)] = &*of else {
        return Err(Kind::Integer.failed(Fault::FunctionEvaluation));
    };
    let length = i32::try_from(of.chars().count());
    length
        .map(Value::Integer)
        .map_err(|_| Kind::Integer.failed(Fault::FunctionEvaluation))
}

fn joined<'e>(between: &str, all: &[Value<'_>]) -> Evaluated<'e> {
    let mut joined = String::new();
    for (n, one) in all.iter().enumerate() {
        if let Value::String(one) = one {
            joined.push_str(if n == 0 { "" } else { between });
            joined.push_str(one);
        }
        if joined.len() > LONGEST {
            return Err(Kind::String.failed(Fault::FunctionEvaluation));
        }
    }
    Ok(Value::String(Cow::Owned(joined)))
}

fn made<'e>(make: fn(&str) -> String, of: Vec<Value<'e>>) -> Evaluated<'e> {
    match &*of {
        [Value::String(of)] => Ok(Value::String(Cow::Owned(make(of)))),
        _ => Err(Kind::String.failed(Fault::FunctionEvaluation)),
    }
}

/// A part of a string, by one number or two; or an error, with the part that is the value all the same.
fn part<'e>(
    mut of: Vec<Value<'e>>,
    part: impl Fn(&str, i32, i32) -> Result<&str, &str>,
) -> Evaluated<'e> {
    let number = |at: usize| match of.get(at) {
        Some(Value::Integer(number)) => *number,
        _ => 0,
    };
    let (first, second) = (number(1), number(2));
    of.truncate(1);
    let Some(Value::String(text)) = of.pop() else {
        return Err(Kind::String.failed(Fault::FunctionEvaluation));
    };
    let (found, fault) = match part(&text, first, second) {
        Ok(found) => (found, None),
        Err(found) => (found, Some(Fault::FunctionEvaluation)),
    };
    let value = match &text {
        _ if found.len() == text.len() => Value::String(text),
        _ => Value::String(Cow::Owned(found.to_owned())),
    };
    match fault {
        None => Ok(value),
        Some(fault) => Err(Failed { fault, value }),
    }
}

/// Where the character of that number begins, from 0; the end where there are fewer.
fn at(text: &str, number: usize) -> usize {
    let mut starts = text.char_indices().map(|(start, _)| start);
    starts.nth(number).unwrap_or(text.len())
}

fn substring(text: &str, position: i32, length: i32) -> Result<&str, &str> {
    let Ok(length) = usize::try_from(length) else {
        return Err("");
    };
    let all = text.chars().count();
    let from = usize::try_from(position.unsigned_abs()).unwrap_or(usize::MAX);
    let before = match position {
        0 => return Ok(""),
        _ if from > all => return Err(""),
        1.. => from - 1,
        _ => all - from,
    };
    let rest = &text[at(text, before)..];
    Ok(&rest[..at(rest, length)])
}
