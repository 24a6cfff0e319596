//! What became of requests that are carried out once.

/// What became of a request with a key, or of one that lacks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out, and its answer is kept.
    First,
    /// It was sent on, and has no answer that is kept.
    Unkept,
    /// The application has not carried it out: the key is free.
    Released,
    /// It was given the first answer.
    Replayed,
    /// Its key is another request's.
    Conflict,
    /// The first call is under way.
    InProgress,
    /// What became of the first call is not known.
    Unknown,
    /// It lacks a key that can be used.
    KeyRequired,
    /// It can't be told what became of its key.
    Unavailable,
    /// The same, and it was sent on unprotected.
    Unprotected,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::First,
        Self::Unkept,
        Self::Released,
        Self::Replayed,
        Self::Conflict,
        Self::InProgress,
        Self::Unknown,
        Self::KeyRequired,
        Self::Unavailable,
        Self::Unprotected,
    ];

    /// Its name in metrics and the access log.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Unkept => "unkept",
            Self::Released => "released",
            Self::Replayed => "replayed",
            Self::Conflict => "conflict",
            Self::InProgress => "in_progress",
            Self::Unknown => "unknown",
            Self::KeyRequired => "key_required",
            Self::Unavailable => "unavailable",
            Self::Unprotected => "unprotected",
        }
    }
}
