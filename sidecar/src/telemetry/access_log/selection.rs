//! Which requests get a line. What went wrong always does.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::args::duration;

/// Which requests are written down; settable while they are carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Of those that went well and pass the filter.
    pub sample: Sample,
    /// What passes.
    pub filter: Filter,
}

/// A share of traces, in hundredths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample(u16);

/// What passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    /// Everything.
    #[default]
    All,
    /// What went wrong.
    Errors,
    /// That, and what took at least so long.
    Slow(Duration),
}

/// What a selection is made by.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Whether it went wrong.
    pub failed: bool,
    /// Whether a policy asks for its line.
    pub audited: bool,
    /// How long it took.
    pub duration: Duration,
    /// What its trace has drawn: the same at every hop, so that lines are found together.
    pub lot: u32,
}

/// A [`Selection`] that all threads read and one may change.
#[derive(Debug)]
pub struct Selected(AtomicU64);

/// All traces.
const WHOLE: u16 = 10_000;

/// The bits of a [`Selected`] that are the filter: 0 for all, 1 for errors, else milliseconds and 2.
const FILTER_BITS: u32 = 48;

// === impl Selection ===

impl Selection {
    /// Whether a request gets a line.
    pub fn includes(self, facts: Facts) -> bool {
        if facts.failed {
            return true;
        }
        let passes = match self.filter {
            Filter::All => true,
            Filter::Errors => false,
            Filter::Slow(least) => facts.duration >= least,
        };
        passes && self.sample.includes(facts.lot)
    }

    /// This one, with what a text names replaced: `sample=10 filter=slow:500ms`.
    ///
    /// # Errors
    /// A sentence that says what to write.
    pub fn with(mut self, text: &str) -> Result<Self, String> {
        let mut named = false;
        for setting in text.split_ascii_whitespace() {
            match setting.split_once('=') {
                Some(("sample", value)) => self.sample = value.parse()?,
                Some(("filter", value)) => self.filter = value.parse()?,
                _ => return Err("write sample=PERCENT, filter=FILTER, or both".into()),
            }
            named = true;
        }
        match named {
            true => Ok(self),
            false => Err("write sample=PERCENT, filter=FILTER, or both".into()),
        }
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sample={} filter={}", self.sample, self.filter)
    }
}

// === impl Sample ===

impl Default for Sample {
    fn default() -> Self {
        Self(WHOLE)
    }
}

impl Sample {
    /// Whether a trace that has drawn this lot is among them.
    pub fn includes(self, lot: u32) -> bool {
        (u64::from(lot) * u64::from(WHOLE)) >> 32 < u64::from(self.0)
    }
}

impl FromStr for Sample {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "a sample is a percentage from 0 to 100, such as 10 or 0.5".to_owned();
        let percent: f64 = text.parse().map_err(|_| wrong())?;
        if !(0.0..=100.0).contains(&percent) {
            return Err(wrong());
        }
        // Within bounds, and cut after the second digit.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let hundredths = (percent * 100.0).round() as u16;
        Ok(Self(hundredths))
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.0) / 100.0)
    }
}

// === impl Filter ===

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "errors" => Ok(Self::Errors),
            _ => match text.strip_prefix("slow:") {
                Some(least) => Ok(Self::Slow(duration(least)?)),
                None => Err("a filter is all, errors, or slow:500ms".into()),
            },
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Errors => f.write_str("errors"),
            Self::Slow(least) => write!(f, "slow:{}ms", least.as_millis()),
        }
    }
}

// === impl Selected ===

impl Selected {
    /// With this to begin with.
    pub fn new(selection: Selection) -> Self {
        let selected = Self(AtomicU64::default());
        selected.set(selection);
        selected
    }

    /// What is in force.
    pub fn get(&self) -> Selection {
        let bits = self.0.load(Ordering::Relaxed);
        let filter = match bits & ((1 << FILTER_BITS) - 1) {
            0 => Filter::All,
            1 => Filter::Errors,
            more => Filter::Slow(Duration::from_millis(more - 2)),
        };
        // Only what was put there: at most 10 000.
        let sample = Sample(u16::try_from(bits >> FILTER_BITS).unwrap_or(WHOLE));
        Selection { sample, filter }
    }

    /// Puts another in force.
    pub fn set(&self, selection: Selection) {
        let filter = match selection.filter {
            Filter::All => 0,
            Filter::Errors => 1,
            Filter::Slow(least) => {
                let longest = (1 << FILTER_BITS) - 3;
                u64::try_from(least.as_millis()).map_or(longest, |least| least.min(longest)) + 2
            }
        };
        let sample = u64::from(selection.sample.0) << FILTER_BITS;
        self.0.store(sample | filter, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts(failed: bool, milliseconds: u64, lot: u32) -> Facts {
        Facts {
            audited: false,
            failed,
            duration: Duration::from_millis(milliseconds),
            lot,
        }
    }

    #[test]
    fn what_went_wrong_is_always_included() {
        for text in [
            "sample=0 filter=all",
            "filter=errors",
            "filter=slow:1s sample=0",
        ] {
            let selection = Selection::default().with(text).unwrap();
            assert!(selection.includes(facts(true, 0, u32::MAX)), "{text}");
            assert!(!selection.includes(facts(false, 999, u32::MAX)), "{text}");
        }
    }

    #[test]
    fn a_filter_includes_what_is_slow_and_a_sample_a_share_of_the_rest() {
        let slow = Selection::default().with("filter=slow:500ms").unwrap();
        assert!(!slow.includes(facts(false, 499, 0)));
        assert!(slow.includes(facts(false, 500, u32::MAX)));
        let tenth = Selection::default().with("sample=10").unwrap();
        let step = u32::MAX / 1000;
        let lots = (0..1000).map(|number| number * step + step / 2);
        let included = lots.filter(|lot| tenth.includes(facts(false, 0, *lot)));
        assert_eq!(included.count(), 100);
        assert!(Selection::default().includes(facts(false, 0, u32::MAX)));
    }

    #[test]
    fn what_is_no_selection_is_refused_with_what_to_write() {
        for (text, says) in [
            ("", "write sample="),
            ("everything", "write sample="),
            ("filter=some", "all, errors, or slow:"),
            ("filter=slow:soon", "30s or 500ms"),
            ("sample=101", "from 0 to 100"),
            ("sample=-1", "from 0 to 100"),
            ("sample=NaN", "from 0 to 100"),
            ("sample=1 rate=2", "write sample="),
        ] {
            let refused = Selection::default().with(text).unwrap_err();
            assert!(refused.contains(says), "{text}: {refused}");
        }
    }

    proptest! {
        #[test]
        fn a_selection_is_what_was_set(sample in 0..=10_000u16, kind in 0..3, least in 0..100_000_000u64) {
            let filter = match kind {
                0 => Filter::All,
                1 => Filter::Errors,
                _ => Filter::Slow(Duration::from_millis(least)),
            };
            let selection = Selection { sample: Sample(sample), filter };
            prop_assert_eq!(Selected::new(selection).get(), selection);
            prop_assert_eq!(Selection::default().with(&selection.to_string()), Ok(selection));
        }
    }
}
