//! Numbers as JSON writes them, compared exactly.

use std::cmp::Ordering;

/// The greatest exponent, and the least one but for its sign.
const MAX_EXPONENT: i64 = 1_000_000_000;

/// A number: its digits from the first that is not zero to the last, and where its point stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    /// False of zero.
    negative: bool,
    /// None of zero.
    digits: Vec<u8>,
    /// How many digits stand before the point: less than none when zeros follow it. None of zero.
    point: i64,
}

// === impl Decimal ===

impl Decimal {
    /// Reads what JSON calls a number (RFC 8259 section 6); `None` for what is none, or leaves every bound.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, read_exponent(exponent)?),
            None => (rest, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((_, "")) => return None,
            Some((whole, fraction)) => (whole, fraction),
            None => (mantissa, ""),
        };
        let is_whole = whole == "0" || (!whole.is_empty() && !whole.starts_with('0'));
        let mut all = whole.bytes().chain(fraction.bytes());
        if !is_whole || !all.all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let all = || whole.bytes().chain(fraction.bytes());
        let zeros = all().take_while(|digit| *digit == b'0').count();
        let mut digits = Vec::from_iter(all().skip(zeros));
        let last = digits.iter().rposition(|digit| *digit != b'0');
        digits.truncate(last.map_or(0, |last| last + 1));
        if digits.is_empty() {
            return Some(Self {
                negative: false,
                digits,
                point: 0,
            });
        }
        let whole = i64::try_from(whole.len()).ok()?;
        Some(Self {
            negative,
            digits,
            point: whole + exponent - i64::try_from(zeros).ok()?,
        })
    }

    fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }

    /// Without the sign.
    fn magnitude(&self, other: &Self) -> Ordering {
        // Digits have no zeros at their end: of two that begin alike the longer one is greater.
        self.point
            .cmp(&other.point)
            .then_with(|| self.digits.cmp(&other.digits))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |one: &Self| match (one.is_zero(), one.negative) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => -1,
        };
        match (sign(self), sign(other)) {
            (1, 1) => self.magnitude(other),
            (-1, -1) => other.magnitude(self),
            (one, other) => one.cmp(&other),
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn read_exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let exponent = text.strip_prefix('+').unwrap_or(text).parse::<i64>().ok()?;
    (-MAX_EXPONENT..=MAX_EXPONENT)
        .contains(&exponent)
        .then_some(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Decimal {
        Decimal::parse(text).unwrap()
    }

    #[test]
    fn numbers_are_compared_exactly_however_they_are_written() {
        for same in [
            ["10", "1e1"],
            ["10", "10.000"],
            ["0.1", "1E-1"],
            ["-0", "0e5"],
            ["0.00120", "12e-4"],
            ["-100", "-1e+2"],
        ] {
            assert_eq!(of(same[0]), of(same[1]), "{same:?}");
            assert_eq!(of(same[0]).cmp(&of(same[1])), Ordering::Equal, "{same:?}");
        }
        let rising = [
            "-1e999999",
            "-10",
            "-9.99",
            "-0.1",
            "-1e-9",
            "0",
            "1e-9",
            "0.099",
            "0.1",
            "1",
            "1.5",
            "9",
            "10",
            // Both are the same in 64 bits.
            "9007199254740992.0",
            "9007199254740992.1",
            "9007199254740993",
            "1e400",
        ];
        for (at, less) in rising.iter().enumerate() {
            for greater in &rising[at + 1..] {
                assert!(of(less) < of(greater), "{less} {greater}");
                assert!(of(greater) > of(less), "{less} {greater}");
            }
        }
    }

    #[test]
    fn what_json_does_not_call_a_number_is_none() {
        for none in [
            "",
            "-",
            "+1",
            "01",
            "-01",
            "1.",
            ".5",
            "1e",
            "1e+",
            "1e1.5",
            "0x10",
            "1 ",
            " 1",
            "NaN",
            "Infinity",
            "1_000",
            "1,5",
            "١",
            "1e1000000001",
            "1e99999999999999999999",
        ] {
            assert_eq!(Decimal::parse(none), None, "{none}");
        }
    }
}
