//! An answer that is kept, and the form in which it stands in a store.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, response};
use prost::Message as _;

/// Says that the answer is that of an earlier request with the same key.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// What a header takes in memory beside its name and value, in bytes.
const FIELD: usize = 64;

/// What was answered first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers, without those of the hop.
    pub headers: HeaderMap,
    /// All of the body.
    pub body: Bytes,
    /// The trailers, if there were any.
    pub trailers: Option<HeaderMap>,
}

/// What is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// The form in which it stands in a store: fields are added, and never change their meaning.
#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    #[prost(uint32, tag = "1")]
    status: u32,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<Field>,
    #[prost(bytes = "bytes", tag = "3")]
    body: Bytes,
    #[prost(message, repeated, tag = "4")]
    trailers: Vec<Field>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Field {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

// === impl Answer ===

impl Answer {
    /// What it takes in memory, in bytes.
    pub fn bytes(&self) -> u64 {
        let fields = self.headers.iter().chain(self.trailers.iter().flatten());
        let fields = fields.map(|(name, value)| FIELD + name.as_str().len() + value.len());
        (self.body.len() + fields.sum::<usize>()) as u64
    }

    /// What it takes in memory when it has this head, in bytes, without its body.
    pub fn bytes_of_head(head: &response::Parts) -> u64 {
        let fields = head.headers.iter();
        let fields = fields.map(|(name, value)| FIELD + name.as_str().len() + value.len());
        fields.sum::<usize>() as u64
    }

    /// The response, whose body and trailers are the answer's.
    pub fn response(&self, replayed: bool) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
        if replayed {
            let said = HeaderValue::from_static("true");
            response.headers_mut().insert(REPLAYED, said);
        }
        response
    }

    /// As it stands in a store.
    pub fn stored(&self) -> Vec<u8> {
        let stored = Stored {
            status: self.status.as_u16().into(),
            headers: fields(&self.headers),
            body: self.body.clone(),
            trailers: self.trailers.as_ref().map(fields).unwrap_or_default(),
        };
        stored.encode_to_vec()
    }

    /// From a store.
    ///
    /// # Errors
    /// That it is none.
    pub fn read(bytes: Vec<u8>) -> Result<Self, Malformed> {
        let stored = Stored::decode(Bytes::from(bytes)).map_err(|_| Malformed)?;
        let status = u16::try_from(stored.status).map_err(|_| Malformed)?;
        let trailers = headers(stored.trailers)?;
        Ok(Self {
            status: StatusCode::from_u16(status).map_err(|_| Malformed)?,
            headers: headers(stored.headers)?,
            body: stored.body,
            trailers: Some(trailers).filter(|trailers| !trailers.is_empty()),
        })
    }
}

fn fields(headers: &HeaderMap) -> Vec<Field> {
    let fields = headers.iter().map(|(name, value)| Field {
        name: name.as_str().to_owned(),
        value: value.as_bytes().to_vec(),
    });
    fields.collect()
}

fn headers(fields: Vec<Field>) -> Result<HeaderMap, Malformed> {
    let mut headers = HeaderMap::new();
    for Field { name, value } in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Malformed)?;
        let value = HeaderValue::from_bytes(&value).map_err(|_| Malformed)?;
        let kept = headers.try_append(name, value);
        kept.map_err(|_| Malformed)?;
    }
    Ok(headers)
}
