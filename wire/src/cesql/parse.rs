//! From a text to an expression, by descent: each level of precedence calls the one that binds tighter.

use std::borrow::Cow;

use super::function::Function;
use super::like::{MAX_PATTERN, Pattern};
use super::token::{Token, What, tokens};
use super::{Compared, Logic, MAX_DEPTH, MAX_LENGTH, MAX_TERMS, Math, Node, Unreadable, Value};

/// Words that name no attribute.
const KEYWORDS: [&str; 9] = [
    "AND", "OR", "XOR", "NOT", "LIKE", "EXISTS", "IN", "TRUE", "FALSE",
];

pub(super) fn parse(text: &str) -> Result<Node, Unreadable> {
    if text.len() > MAX_LENGTH {
        let why = format!("the expression is longer than {MAX_LENGTH} bytes");
        return Err(unreadable(1, why));
    }
    let tokens = tokens(text)?;
    let mut parser = Parser {
        tokens: &tokens,
        end: text.chars().count() + 1,
        terms: 0,
        depth: 0,
    };
    let root = parser.logic()?;
    match parser.tokens.first() {
        None => Ok(root),
        Some(_) => Err(parser.unexpected("an operator, or the end")),
    }
}

fn unreadable(at: usize, why: impl Into<String>) -> Unreadable {
    Unreadable {
        at,
        why: why.into(),
        missing_function: false,
    }
}

struct Parser<'t> {
    tokens: &'t [Token<'t>],
    /// Where a token would be that is missing.
    end: usize,
    terms: usize,
    depth: usize,
}

impl<'t> Parser<'t> {
    // --- tokens ---

    fn at(&self) -> usize {
        self.tokens.first().map_or(self.end, |token| token.at)
    }

    fn unexpected(&self, wanted: &str) -> Unreadable {
        let found = match self.tokens.first().map(|token| &token.what) {
            None => "the end".to_owned(),
            Some(What::Word(text) | What::Digits(text) | What::Sign(text)) => format!("`{text}`"),
            Some(What::String(_)) => "a string".to_owned(),
        };
        unreadable(
            self.at(),
            format!("{wanted} is expected, and {found} is there"),
        )
    }

    /// The next token, if it is that.
    fn take<T>(&mut self, is: impl FnOnce(&'t What<'t>) -> Option<T>) -> Option<T> {
        let (first, rest) = self.tokens.split_first()?;
        let taken = is(&first.what)?;
        self.tokens = rest;
        Some(taken)
    }

    fn sign(&mut self, sign: &str) -> bool {
        let is = |what: &What<'_>| (*what == What::Sign(sign)).then_some(());
        self.take(is).is_some()
    }

    fn keyword(&mut self, keyword: &str) -> bool {
        let is = |what: &What<'_>| match what {
            What::Word(word) => word.eq_ignore_ascii_case(keyword).then_some(()),
            _ => None,
        };
        self.take(is).is_some()
    }

    fn must(&mut self, sign: &str) -> Result<(), Unreadable> {
        match self.sign(sign) {
            true => Ok(()),
            false => Err(self.unexpected(&format!("`{sign}`"))),
        }
    }

    /// One more of what an expression is made of.
    fn made(&mut self, node: Node) -> Result<Node, Unreadable> {
        self.terms += 1;
        match self.terms <= MAX_TERMS {
            true => Ok(node),
            false => {
                let why = format!("the expression has more than {MAX_TERMS} parts");
                Err(unreadable(self.at(), why))
            }
        }
    }

    /// Something within something else.
    fn within<T>(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<T, Unreadable>,
    ) -> Result<T, Unreadable> {
        if self.depth == MAX_DEPTH {
            let why = format!("more than {MAX_DEPTH} levels are within one another");
            return Err(unreadable(self.at(), why));
        }
        self.depth += 1;
        let made = inner(self);
        self.depth -= 1;
        made
    }

    // --- levels, the loosest first ---

    fn logic(&mut self) -> Result<Node, Unreadable> {
        let first = self.compared()?;
        let mut others = Vec::new();
        while let Some(operator) = self.logic_operator() {
            let next = self.compared()?;
            others.push((operator, self.made(next)?));
        }
        Ok(match others.is_empty() {
            true => first,
            false => Node::Logic(Box::new(first), others),
        })
    }

    fn logic_operator(&mut self) -> Option<Logic> {
        [Logic::And, Logic::Or, Logic::Xor]
            .into_iter()
            .find(|operator| self.keyword(&operator.to_string()))
    }

    fn compared(&mut self) -> Result<Node, Unreadable> {
        let mut left = self.sum()?;
        loop {
            let make: fn(Box<[Node; 2]>) -> Node = match () {
                () if self.sign("=") => |two| Node::Equal(two, true),
                () if self.sign("!=") || self.sign("<>") => |two| Node::Equal(two, false),
                () if self.sign("<=") => |two| Node::Compared(Compared::LessOrEqual, two),
                () if self.sign(">=") => |two| Node::Compared(Compared::GreaterOrEqual, two),
                () if self.sign("<") => |two| Node::Compared(Compared::Less, two),
                () if self.sign(">") => |two| Node::Compared(Compared::Greater, two),
                () => return Ok(left),
            };
            let right = self.sum()?;
            left = self.made(make(Box::new([left, right])))?;
        }
    }

    fn sum(&mut self) -> Result<Node, Unreadable> {
        let signs = [("+", Math::Add), ("-", Math::Subtract)];
        self.math(&signs, Self::product)
    }

    fn product(&mut self) -> Result<Node, Unreadable> {
        let signs = [
            ("*", Math::Multiply),
            ("/", Math::Divide),
            ("%", Math::Remainder),
        ];
        self.math(&signs, Self::matched)
    }

    fn math(
        &mut self,
        signs: &[(&str, Math)],
        operand: fn(&mut Self) -> Result<Node, Unreadable>,
    ) -> Result<Node, Unreadable> {
        let mut left = operand(self)?;
        while let Some((_, operator)) = signs.iter().find(|(sign, _)| self.sign(sign)) {
            let right = operand(self)?;
            left = self.made(Node::Math(*operator, Box::new([left, right])))?;
        }
        Ok(left)
    }

    /// What LIKE and IN follow.
    fn matched(&mut self) -> Result<Node, Unreadable> {
        let mut of = self.unary()?;
        loop {
            let wanted = !self.keyword("NOT");
            let node = if self.keyword("LIKE") {
                Node::Like(Box::new(of), self.pattern()?, wanted)
            } else if self.keyword("IN") {
                self.must("(")?;
                Node::In(Box::new(of), self.list()?, wanted)
            } else if wanted {
                return Ok(of);
            } else {
                return Err(self.unexpected("LIKE or IN"));
            };
            of = self.made(node)?;
        }
    }

    fn pattern(&mut self) -> Result<Pattern, Unreadable> {
        let at = self.at();
        let pattern = self.take(|what| match what {
            What::String(pattern) => Some(pattern),
            _ => None,
        });
        let pattern = pattern.ok_or_else(|| self.unexpected("a string, which is the pattern,"))?;
        let too_long = || unreadable(at, format!("the pattern is longer than {MAX_PATTERN}"));
        Pattern::new(pattern).ok_or_else(too_long)
    }

    fn unary(&mut self) -> Result<Node, Unreadable> {
        if self.keyword("NOT") {
            let of = self.within(Self::unary)?;
            return self.made(Node::Not(Box::new(of)));
        }
        let at = self.at();
        let signed = [("-", "-"), ("+", "")]
            .into_iter()
            .find(|(sign, _)| self.sign(sign));
        let Some((sign, written)) = signed else {
            return self.atom();
        };
        if let Some(digits) = self.digits() {
            return self.integer(at, &format!("{written}{digits}"));
        }
        if sign == "+" {
            return Err(self.unexpected("a number"));
        }
        let of = self.within(Self::unary)?;
        self.made(Node::Negated(Box::new(of)))
    }

    fn atom(&mut self) -> Result<Node, Unreadable> {
        let at = self.at();
        if self.sign("(") {
            let inner = self.within(Self::logic)?;
            self.must(")")?;
            return Ok(inner);
        }
        if let Some(digits) = self.digits() {
            return self.integer(at, digits);
        }
        let string = |what: &'t What<'t>| match what {
            What::String(text) => Some(text.clone()),
            _ => None,
        };
        if let Some(text) = self.take(string) {
            return self.made(Node::Literal(Value::String(Cow::Owned(text))));
        }
        for (word, value) in [("TRUE", true), ("FALSE", false)] {
            if self.keyword(word) {
                return self.made(Node::Literal(Value::Boolean(value)));
            }
        }
        if self.keyword("EXISTS") {
            let name = self.word().ok_or_else(|| self.unexpected("an attribute"))?;
            let name = attribute(at, name)?;
            return self.made(Node::Exists(name));
        }
        let Some(word) = self.word() else {
            return Err(self.unexpected("a value"));
        };
        if self.sign("(") {
            return self.called(at, word);
        }
        let name = attribute(at, word)?;
        self.made(Node::Attribute(name))
    }

    fn called(&mut self, at: usize, name: &str) -> Result<Node, Unreadable> {
        let arguments = match self.sign(")") {
            true => Vec::new(),
            false => self.list()?,
        };
        let function = Function::named(name, arguments.len()).ok_or_else(|| Unreadable {
            at,
            why: match Function::exists(name) {
                true => format!(
                    "{name} takes another number of arguments than {}",
                    arguments.len()
                ),
                false => format!("there is no function {name}"),
            },
            missing_function: true,
        })?;
        self.made(Node::Called(function, arguments))
    }

    /// The rest of a list, of one at least, whose parenthesis was opened.
    fn list(&mut self) -> Result<Vec<Node>, Unreadable> {
        let mut all = Vec::new();
        loop {
            all.push(self.within(Self::logic)?);
            if !self.sign(",") {
                self.must(")")?;
                return Ok(all);
            }
        }
    }

    fn digits(&mut self) -> Option<&'t str> {
        self.take(|what| match what {
            What::Digits(digits) => Some(*digits),
            _ => None,
        })
    }

    fn integer(&mut self, at: usize, written: &str) -> Result<Node, Unreadable> {
        let value = written.parse().map_err(|_| {
            let why = format!("{written} is no whole number of 32 bits");
            unreadable(at, why)
        })?;
        self.made(Node::Literal(Value::Integer(value)))
    }

    /// A word that is no keyword.
    fn word(&mut self) -> Option<&'t str> {
        self.take(|what| match what {
            What::Word(word) => {
                let keyword = KEYWORDS.iter().any(|one| one.eq_ignore_ascii_case(word));
                (!keyword).then_some(*word)
            }
            _ => None,
        })
    }
}

/// A name of an attribute: letters and digits, which events have in lower case.
fn attribute(at: usize, name: &str) -> Result<Box<str>, Unreadable> {
    match name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        true => Ok(name.to_ascii_lowercase().into()),
        false => {
            let why = format!("{name} is no attribute: those have letters and digits alone");
            Err(unreadable(at, why))
        }
    }
}
