//! What a sidecar says, into one message and out of it within bounds.
//!
//! A message is bounded in bytes by the transport. That alone bounds nothing: a repeated message
//! without content takes two bytes on the wire and a hundred in memory. So what is in a message is
//! counted before it is decoded.

use bytes::{Buf, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, decode_key, skip_field},
};

use crate::{
    delta::{MAX_ANNOUNCED, MAX_CHANGES, MAX_HELD, MAX_REMOVED},
    discovery::{Ack, Claims, FromSidecar, Hello, Lookup, Report, from_sidecar},
    grant::{MAX_CLAIMS, MAX_CLAIMS_BYTES},
    lookup::MAX_ASKED,
    report::MAX_REPORTED,
};

/// Fields of a message beside its long list: more than there are, for those of a later version.
const OTHERS: usize = 16;

/// What a sidecar says once it has said Hello.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// What it did with a Delta.
    Ack(Ack),
    /// What it wants to be told.
    Lookup(Lookup),
    /// How it goes with what it carries out.
    Report(Report),
    /// What it wants to do alone.
    Claims(Claims),
}

/// Why a message is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The other one of the two.
    #[error(
        "the first message must be a Hello, and after it only Acks, Lookups, Reports and Claims may come"
    )]
    Unexpected,
    /// No protobuf.
    #[error("{0}")]
    Undecodable(#[from] DecodeError),
    /// Too much is in it.
    #[error("more than the {0} fields that such a message has at most")]
    TooMany(usize),
    /// It is too long.
    #[error("more than the {0} bytes that such a message has at most")]
    TooLong(usize),
}

// === impl FromSidecar ===

impl FromSidecar {
    /// The Hello, if this is one.
    ///
    /// # Errors
    /// When it is none, or holds more than one ever does.
    pub fn into_hello(self) -> Result<Hello, Unfit> {
        match self.message {
            Some(from_sidecar::Message::Hello(bytes)) => {
                decode(bytes, MAX_HELD + MAX_REMOVED + MAX_ANNOUNCED + OTHERS)
            }
            _ => Err(Unfit::Unexpected),
        }
    }

    /// What comes after the Hello.
    ///
    /// # Errors
    /// When it is a Hello, or holds more than one ever does.
    pub fn into_said(self) -> Result<Said, Unfit> {
        match self.message {
            Some(from_sidecar::Message::Ack(bytes)) => {
                decode(bytes, MAX_CHANGES + OTHERS).map(Said::Ack)
            }
            Some(from_sidecar::Message::Lookup(bytes)) => {
                decode(bytes, MAX_ASKED + OTHERS).map(Said::Lookup)
            }
            Some(from_sidecar::Message::Report(bytes)) => {
                decode(bytes, MAX_REPORTED + OTHERS).map(Said::Report)
            }
            Some(from_sidecar::Message::Claims(bytes)) => claims(bytes).map(Said::Claims),
            _ => Err(Unfit::Unexpected),
        }
    }
}

impl From<Lookup> for FromSidecar {
    fn from(lookup: Lookup) -> Self {
        let bytes = lookup.encode_to_vec().into();
        FromSidecar {
            message: Some(from_sidecar::Message::Lookup(bytes)),
        }
    }
}

impl From<Report> for FromSidecar {
    fn from(report: Report) -> Self {
        let bytes = report.encode_to_vec().into();
        FromSidecar {
            message: Some(from_sidecar::Message::Report(bytes)),
        }
    }
}

impl From<Claims> for FromSidecar {
    fn from(claims: Claims) -> Self {
        let bytes = claims.encode_to_vec().into();
        FromSidecar {
            message: Some(from_sidecar::Message::Claims(bytes)),
        }
    }
}

impl From<Hello> for FromSidecar {
    fn from(hello: Hello) -> Self {
        let bytes = hello.encode_to_vec().into();
        FromSidecar {
            message: Some(from_sidecar::Message::Hello(bytes)),
        }
    }
}

impl From<Ack> for FromSidecar {
    fn from(ack: Ack) -> Self {
        let bytes = ack.encode_to_vec().into();
        FromSidecar {
            message: Some(from_sidecar::Message::Ack(bytes)),
        }
    }
}

/// Runs within claims are counted by their bytes: they are few, and each takes two at least.
fn claims(bytes: Bytes) -> Result<Claims, Unfit> {
    match bytes.len() {
        0..=MAX_CLAIMS_BYTES => decode(bytes, MAX_CLAIMS + OTHERS),
        _ => Err(Unfit::TooLong(MAX_CLAIMS_BYTES)),
    }
}

fn decode<M: Message + Default>(bytes: Bytes, most: usize) -> Result<M, Unfit> {
    let mut rest = &bytes[..];
    let mut fields = 0;
    while rest.has_remaining() {
        fields += 1;
        if fields > most {
            return Err(Unfit::TooMany(most));
        }
        let (tag, wire_type) = decode_key(&mut rest)?;
        skip_field(wire_type, tag, &mut rest, DecodeContext::default())?;
    }
    Ok(M::decode(bytes)?)
}
