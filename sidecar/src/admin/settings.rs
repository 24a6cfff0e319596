//! What can be set while the sidecar runs: `PUT /log-level` and `PUT /access-log`.
//!
//! Whoever can connect to 15000 may set them: programs of this host. A browser on it could be made
//! to, by any page: a request that a page sends to another site names the page's in `Origin`, and
//! one to a name that the page's owner has pointed at this host (DNS rebinding) names that in
//! `Host`. So nothing is set for a request with an `Origin`, and nothing is told or set under
//! another name than an address or `localhost`.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{Method, StatusCode};

use super::{Admin, Answer, Question, text};
use crate::telemetry::log;

/// Why a question of a browser gets no answer.
pub(super) fn refused(question: &Question) -> Option<&'static str> {
    let reads = is_read(question);
    let mut hosts = question.headers.get_all(HOST).into_iter();
    let named = match (hosts.next(), hosts.next()) {
        // HTTP/1.0, which no browser speaks.
        (None, _) => reads,
        (Some(host), None) => host.to_str().is_ok_and(is_here),
        (Some(_), Some(_)) => false,
    };
    if !named
        || question
            .authority
            .as_deref()
            .is_some_and(|one| !is_here(one))
    {
        return Some(
            "ask under an address or localhost: another name may be a trick (DNS rebinding)\n",
        );
    }
    if !reads && question.headers.contains_key(ORIGIN) {
        return Some("a page of a browser sets nothing here (Origin)\n");
    }
    None
}

/// Whether a host is an address or `localhost`.
fn is_here(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let host = authority.host();
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    address.parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost")
}

fn is_read(question: &Question) -> bool {
    matches!(question.method, Method::GET | Method::HEAD)
}

// === impl Admin ===

impl Admin {
    /// `GET` tells what is in force, `PUT` sets it and tells what is in force then.
    pub(super) fn log_level(&self, question: &Question) -> Answer {
        if question.method == Method::PUT {
            let set = question.words().and_then(log::set_level);
            if let Err(wrong) = set {
                return text(StatusCode::BAD_REQUEST, format!("{wrong}\n"));
            }
            let level = log::level();
            tracing::info!(level, "the log level was set");
        }
        text(StatusCode::OK, format!("{}\n", log::level()))
    }

    /// The same of which requests get a line.
    pub(super) fn access_log(&self, question: &Question) -> Answer {
        let Some(selected) = &self.access_log else {
            let why = "the access log is off for the life of this process (--access-log)\n";
            return text(StatusCode::CONFLICT, why);
        };
        if question.method == Method::PUT {
            let words = question.words();
            match words.and_then(|words| selected.get().with(words)) {
                Ok(selection) => selected.set(selection),
                Err(wrong) => return text(StatusCode::BAD_REQUEST, format!("{wrong}\n")),
            }
        }
        text(StatusCode::OK, format!("{}\n", selected.get()))
    }
}

// === impl Question ===

impl Question {
    pub(super) fn words(&self) -> Result<&str, String> {
        let words = std::str::from_utf8(&self.body).map_err(|_| "the body is no text".to_owned());
        words.map(str::trim)
    }
}
