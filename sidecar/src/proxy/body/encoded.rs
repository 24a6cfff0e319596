//! A response's body that is compressed while it passes: each piece as it comes.

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use crate::policy::compression::Gzip;
use crate::proxy::error::{Error, Reason};

/// What compresses a body, and the trailers that wait behind its end.
#[derive(Debug)]
pub(super) struct Encoded {
    /// Until the end has been written.
    gzip: Option<Gzip>,
    trailers: Option<HeaderMap>,
}

type Polled = Option<Result<Frame<Bytes>, Error>>;

// === impl Encoded ===

impl Encoded {
    pub(super) fn new(gzip: Gzip) -> Self {
        Self {
            gzip: Some(gzip),
            trailers: None,
        }
    }

    /// Whether nothing follows.
    pub(super) fn is_end(&self) -> bool {
        self.gzip.is_none() && self.trailers.is_none()
    }

    /// What is to be passed on before more is asked for.
    pub(super) fn waiting(&mut self) -> Option<Frame<Bytes>> {
        self.trailers.take().map(Frame::trailers)
    }

    /// What is passed on in a frame's place; `last`: the body ends with it.
    pub(super) fn pass(&mut self, polled: Polled, last: bool) -> Polled {
        let piece = match polled {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if !last => return Some(self.more(data).map(Frame::data)),
                Ok(data) => data,
                Err(other) => match other.into_trailers() {
                    Ok(trailers) if self.gzip.is_some() => {
                        self.trailers = Some(trailers);
                        Bytes::new()
                    }
                    Ok(trailers) => return Some(Ok(Frame::trailers(trailers))),
                    Err(other) => return Some(Ok(other)),
                },
            },
            Some(Err(error)) => return Some(Err(error)),
            None => Bytes::new(),
        };
        let gzip = self.gzip.take()?;
        Some(gzip.end(&piece).map(Frame::data).map_err(failed))
    }

    fn more(&mut self, data: Bytes) -> Result<Bytes, Error> {
        match &mut self.gzip {
            Some(gzip) if !data.is_empty() => gzip.more(&data).map_err(failed),
            _ => Ok(data),
        }
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::new(
        Reason::BadResponse,
        format!("it cannot be compressed: {error}"),
    )
}
