//! How many replies, and copies to other topics, led to an event. A chain of them may lead back to where it began: each event of
//! it says the how manyth it is (the extension `meshwrighthops`), and one too many is a dead letter.

use super::cloud_event::Event;

/// How long a chain may be.
pub(super) const LONGEST: u32 = 32;
/// The extension that says how long it is.
pub(super) const HOPS: &str = "meshwrighthops";

/// A chain is longer than any should be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Counts the step from one event of a chain to the next.
pub(super) fn count(next: &mut Event, before: &Event) -> Result<(), TooLong> {
    let hops = before
        .attribute(HOPS)
        .map_or(Some(0), |hops| hops.parse().ok());
    let hops = hops.filter(|hops: &u32| *hops < LONGEST).ok_or(TooLong)?;
    // However many attributes it has already.
    next.set_trusted(HOPS, (hops + 1).to_string());
    Ok(())
}
