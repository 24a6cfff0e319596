//! CloudEvents SQL 1.0: expressions over the attributes of an event, which filters are made of.
//!
//! <https://github.com/cloudevents/spec/blob/main/cesql/spec.md>. The operator reads an expression once to say
//! what is wrong with it, and every sidecar that filters by it evaluates it for each event. It always ends: it is
//! bounded when it is read, and reads nothing but attributes.
//!
//! Where the text of the specification leaves a choice, this does what its grammar and its Go implementation do:
//! AND, OR and XOR bind alike and from the right, `NOT a LIKE 'b'` is `(NOT a) LIKE 'b'`, and names of attributes
//! are read in lower case. It takes more than the grammar in one place: `a-1` is a difference, where the grammar
//! sees two numbers beside one another. Numbers that leave 32 bits are an error of mathematics.

mod function;
mod like;
mod parse;
mod token;
mod value;

use std::fmt;

use self::function::Function;
use self::like::Pattern;
pub use self::value::Value;
use self::value::{Kind, cast};

/// The longest expression that is read, in bytes.
pub const MAX_LENGTH: usize = 4096;

/// The most operators, functions, literals and attributes of an expression.
pub const MAX_TERMS: usize = 256;

/// The most parentheses and functions within one another.
pub const MAX_DEPTH: usize = 32;

/// An expression that can be evaluated.
#[derive(Debug)]
pub struct Expression {
    root: Node,
}

/// What is read from an event.
pub trait Attributes {
    /// The attribute or extension of that name, in lower case; `None` when the event has none.
    fn attribute(&self, name: &str) -> Option<Value<'_>>;
}

/// Why a text is no expression.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {why}")]
pub struct Unreadable {
    /// Which character it is about, from 1.
    pub at: usize,
    /// What is wrong there.
    pub why: String,
    /// Whether it is that there is no such function, or none that takes so many arguments.
    pub missing_function: bool,
}

/// What went wrong while an expression was evaluated. An event for which that happens passes no filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A division by zero, or a number that leaves 32 bits.
    #[error("a number cannot be computed")]
    Math,
    /// A text that is no number, or neither true nor false.
    #[error("a value is not of the type that is needed")]
    Cast,
    /// The event has no attribute of a name.
    #[error("the event has no such attribute")]
    MissingAttribute,
    /// A function was given what it does not take.
    #[error("a function cannot take an argument")]
    FunctionEvaluation,
}

/// A fault, and the value that the expression has all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed<'e> {
    /// The first thing that went wrong.
    pub fault: Fault,
    /// The value, as the specification has it for this fault.
    pub value: Value<'e>,
}

type Evaluated<'e> = Result<Value<'e>, Failed<'e>>;

#[derive(Debug)]
enum Node {
    Literal(Value<'static>),
    Attribute(Box<str>),
    Exists(Box<str>),
    Not(Box<Node>),
    Negated(Box<Node>),
    Like(Box<Node>, Pattern, Wanted),
    In(Box<Node>, Vec<Node>, Wanted),
    Math(Math, Box<[Node; 2]>),
    Equal(Box<[Node; 2]>, Wanted),
    Compared(Compared, Box<[Node; 2]>),
    /// The first operand, and the others each with the operator before it.
    Logic(Box<Node>, Vec<(Logic, Node)>),
    Called(&'static Function, Vec<Node>),
}

/// Whether an operator is asked for, or for its contrary.
type Wanted = bool;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Math {
    Multiply,
    Divide,
    Remainder,
    Add,
    Subtract,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compared {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Logic {
    And,
    Or,
    Xor,
}

// === impl Expression ===

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    /// When it is none, is longer or deeper than the bounds, or calls a function that does not exist.
    pub fn parse(text: &str) -> Result<Self, Unreadable> {
        Ok(Self {
            root: parse::parse(text)?,
        })
    }

    /// The value for an event.
    ///
    /// # Errors
    /// The first thing that goes wrong, with the value that there is all the same.
    pub fn evaluate<'e>(&'e self, event: &'e dyn Attributes) -> Evaluated<'e> {
        self.root.evaluate(event)
    }

    /// Whether the event passes: the value is true, and nothing went wrong.
    pub fn passes(&self, event: &dyn Attributes) -> bool {
        self.evaluate(event) == Ok(Value::Boolean(true))
    }

    /// Whether AND, OR or XOR stand beside one another without parentheses that say which is meant.
    pub fn mixes_logic(&self) -> bool {
        self.root.mixes_logic()
    }
}

// === impl Node ===

/// A fault, with the zero of the type that the operator returns.
fn zero<'e>(kind: Kind) -> impl Fn(Failed<'e>) -> Failed<'e> {
    move |failed| kind.failed(failed.fault)
}

impl Node {
    fn evaluate<'e>(&'e self, event: &'e dyn Attributes) -> Evaluated<'e> {
        match self {
            Self::Literal(value) => Ok(value.borrowed()),
            Self::Attribute(name) => event
                .attribute(name)
                .ok_or_else(|| Kind::Boolean.failed(Fault::MissingAttribute)),
            Self::Exists(name) => Ok(Value::Boolean(event.attribute(name).is_some())),
            Self::Not(of) => of.boolean(event).map(|value| Value::Boolean(!value)),
            Self::Negated(of) => {
                let negated = of.integer(event)?.checked_neg();
                negated.map_or_else(
                    || Err(Kind::Integer.failed(Fault::Math)),
                    |value| Ok(Value::Integer(value)),
                )
            }
            Self::Like(of, pattern, wanted) => {
                let text = of.as_kind(event, Kind::String, Kind::Boolean)?;
                let Value::String(text) = text else {
                    return Err(Kind::Boolean.failed(Fault::Cast));
                };
                Ok(Value::Boolean(pattern.matches(&text) == *wanted))
            }
            Self::In(of, set, wanted) => {
                let of = of.evaluate(event).map_err(zero(Kind::Boolean))?;
                for one in set {
                    let one = one.as_kind(event, of.kind(), Kind::Boolean)?;
                    if one == of {
                        return Ok(Value::Boolean(*wanted));
                    }
                }
                Ok(Value::Boolean(!wanted))
            }
            Self::Math(operator, operands) => {
                let [left, right] = &**operands;
                let (left, right) = (left.integer(event)?, right.integer(event)?);
                let value = operator.of(left, right);
                value.map_or_else(
                    || Err(Kind::Integer.failed(Fault::Math)),
                    |value| Ok(Value::Integer(value)),
                )
            }
            Self::Equal(operands, wanted) => {
                let [left, right] = &**operands;
                let left = left.evaluate(event).map_err(zero(Kind::Boolean))?;
                let right = right.evaluate(event).map_err(zero(Kind::Boolean))?;
                let left = cast(left, right.kind());
                let left = left.map_err(|fault| Kind::Boolean.failed(fault))?;
                Ok(Value::Boolean((left == right) == *wanted))
            }
            Self::Compared(operator, operands) => {
                let [left, right] = &**operands;
                let left = left.integer(event).map_err(zero(Kind::Boolean))?;
                let right = right.integer(event).map_err(zero(Kind::Boolean))?;
                Ok(Value::Boolean(operator.of(left, right)))
            }
            Self::Logic(first, others) => {
                let mut value = first.boolean(event)?;
                // From the right: what is decided on the left stands, and otherwise the rest is the value, or
                // its contrary.
                let mut contrary = false;
                for (operator, next) in others {
                    match (operator, value) {
                        (Logic::And, false) | (Logic::Or, true) => break,
                        (Logic::And, true) | (Logic::Or, false) => {}
                        (Logic::Xor, value) => contrary ^= value,
                    }
                    value = next.boolean(event)?;
                }
                Ok(Value::Boolean(value ^ contrary))
            }
            Self::Called(function, arguments) => function.call(arguments, |argument, kind| {
                argument.as_kind(event, kind, function.returns)
            }),
        }
    }

    /// The value as `kind`; where that fails, with the zero of what the operator around it `returns`.
    fn as_kind<'e>(
        &'e self,
        event: &'e dyn Attributes,
        kind: Kind,
        returns: Kind,
    ) -> Evaluated<'e> {
        let value = self.evaluate(event).map_err(zero(returns))?;
        cast(value, kind).map_err(|fault| returns.failed(fault))
    }

    /// An operand of an operator that takes integers and returns one.
    fn integer<'e>(&'e self, event: &'e dyn Attributes) -> Result<i32, Failed<'e>> {
        match self.as_kind(event, Kind::Integer, Kind::Integer)? {
            Value::Integer(value) => Ok(value),
            Value::Boolean(_) | Value::String(_) => Err(Kind::Integer.failed(Fault::Cast)),
        }
    }

    /// An operand of an operator that takes booleans and returns one.
    fn boolean<'e>(&'e self, event: &'e dyn Attributes) -> Result<bool, Failed<'e>> {
        match self.as_kind(event, Kind::Boolean, Kind::Boolean)? {
            Value::Boolean(value) => Ok(value),
            Value::Integer(_) | Value::String(_) => Err(Kind::Boolean.failed(Fault::Cast)),
        }
    }

    fn mixes_logic(&self) -> bool {
        match self {
            Self::Literal(_) | Self::Attribute(_) | Self::Exists(_) => false,
            Self::Not(of) | Self::Negated(of) | Self::Like(of, ..) => of.mixes_logic(),
            Self::In(of, set, _) => of.mixes_logic() || set.iter().any(Self::mixes_logic),
            Self::Math(_, operands) | Self::Equal(operands, _) | Self::Compared(_, operands) => {
                operands.iter().any(Self::mixes_logic)
            }
            Self::Logic(first, others) => {
                let mixed = others.windows(2).any(|two| two[0].0 != two[1].0);
                mixed || first.mixes_logic() || others.iter().any(|(_, one)| one.mixes_logic())
            }
            Self::Called(_, arguments) => arguments.iter().any(Self::mixes_logic),
        }
    }
}

// === operators ===

impl Math {
    fn of(self, left: i32, right: i32) -> Option<i32> {
        match self {
            Self::Multiply => left.checked_mul(right),
            Self::Divide => left.checked_div(right),
            Self::Remainder => left.checked_rem(right),
            Self::Add => left.checked_add(right),
            Self::Subtract => left.checked_sub(right),
        }
    }
}

impl Compared {
    fn of(self, left: i32, right: i32) -> bool {
        match self {
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

impl fmt::Display for Logic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::And => "AND",
            Self::Or => "OR",
            Self::Xor => "XOR",
        })
    }
}
