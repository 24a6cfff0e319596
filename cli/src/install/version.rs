//! Versions, and which of them go together.

use std::fmt;

/// How many minor versions an upgrade may take at once: what is older may not understand what is
/// written for what is newer, while both run.
const MOST_MINORS: u32 = 2;

/// Major and minor: all that compatibility is promised by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
}

/// What an upgrade from one version to another is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It may be taken.
    Fine,
    /// It skips too much: this version has to come in between.
    TooFar(Version),
    /// It leads to an older version.
    Back,
}

// === impl Version ===

impl Version {
    /// The two.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// Reads what programs say of themselves: `v3.22.0`, `1.35+`, `0.1.0-rc.1`.
    pub fn read(text: &str) -> Option<Self> {
        let mut numbers = text.trim().trim_start_matches('v').splitn(3, '.');
        let number = |text: &str| {
            let digits = text.split(|c: char| !c.is_ascii_digit()).next();
            digits?.parse().ok()
        };
        Some(Self::new(
            number(numbers.next()?)?,
            number(numbers.next()?)?,
        ))
    }

    /// What an upgrade from this version to that one is.
    pub fn step(self, to: Self) -> Step {
        if to < self {
            return Step::Back;
        }
        if to.major == self.major && to.minor - self.minor > MOST_MINORS {
            return Step::TooFar(Self::new(self.major, self.minor + MOST_MINORS));
        }
        if to.major > self.major + 1 || (to.major > self.major && to.minor > 0) {
            return Step::TooFar(Self::new(self.major + 1, 0));
        }
        Step::Fine
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_programs_write_them() {
        for (text, version) in [
            ("v3.22.0\n", Some(Version::new(3, 22))),
            ("v3.22", Some(Version::new(3, 22))),
            ("1.35+", Some(Version::new(1, 35))),
            ("0.1.0-rc.1", Some(Version::new(0, 1))),
            ("v4", None),
            ("", None),
        ] {
            assert_eq!(Version::read(text), version, "{text}");
        }
    }

    #[test]
    fn an_upgrade_takes_two_minor_versions_at_most_and_none_back() {
        let step = |from: &str, to: &str| {
            let read = |text| Version::read(text).unwrap();
            read(from).step(read(to))
        };
        assert_eq!(step("0.1.0", "0.1.5"), Step::Fine);
        assert_eq!(step("0.1.0", "0.3.0"), Step::Fine);
        assert_eq!(step("0.1.0", "0.4.0"), Step::TooFar(Version::new(0, 3)));
        assert_eq!(step("0.4.0", "0.3.0"), Step::Back);
        // The first of a major version follows any of the one before; what comes later does not.
        assert_eq!(step("1.7.0", "2.0.0"), Step::Fine);
        assert_eq!(step("1.7.0", "2.1.0"), Step::TooFar(Version::new(2, 0)));
        assert_eq!(step("1.7.0", "3.0.0"), Step::TooFar(Version::new(2, 0)));
    }
}
