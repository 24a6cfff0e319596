//! Cache: which answers are kept and given again, as RFC 9111 lets a cache that several callers share.
//!
//! Phase: before the application, at the destination, behind authentication and authorization; where
//! the ApiRoute says so also at the caller's side, before anybody is asked ([`at_caller`]). From
//! `ApiRoute.cache`. A client sees what became of its request in `Cache-Status` (RFC 9211); one that
//! takes only what is kept (`only-if-cached`) is answered 504 with reason `not_cached` where nothing is.
//!
//! What is private is given to nobody else: an answer to a request that had credentials (a token or
//! a key that `auth` found, `Authorization`, a cookie) is kept only if it says that it is for all, and
//! only such a one is given to who sends credentials. An answer that sets a cookie is never kept. Who
//! calls by its certificate is no part of a key: the application is not told, so no answer depends on
//! it.
//!
//! The rules are our own reading of the RFC: the crate for it (http-cache-semantics 3.0) divides
//! `Cache-Control` at commas in quotes and does not know `No-Store` from a directive that nobody has
//! heard of, compares one line of a header that `Vary` names, and has neither ranges nor the stale
//! answers of RFC 5861. The store is a crate's (quick_cache), which has no threads of its own.

pub mod answer;
pub mod at_caller;
pub mod directives;
pub mod entry;
pub mod fill;
pub mod flight;
mod freshness;
pub mod key;
pub mod principal;
pub mod status;
pub mod store;
mod terms;
#[cfg(test)]
mod tests;
pub mod vary;

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{
    AUTHORIZATION, CONTENT_LOCATION, COOKIE, HeaderMap, HeaderName, LOCATION, RANGE,
};
use http::request::Parts;
use http::{Method, StatusCode, response};
use tokio::time::Instant;
use wire::mesh;

use crate::config::service::ServiceKey;
use crate::proxy::error::REASON_HEADER;
use crate::proxy::headers::{names_a_method, names_a_path, names_a_person};
use crate::telemetry::metrics::Direction;
use crate::telemetry::metrics::cache::{Counters, Counts};
use directives::RequestDirectives;
use entry::{Draft, Entry, Freshened, Spans, Times, Unfit};
use fill::Fill;
use flight::{Lead, Wanted};
use key::{Chosen, Key, To};
use status::{Forwarded, Status};
use store::{Found, Store};
use terms::Terms;

/// The cache of one ApiRoute.
#[derive(Debug)]
pub struct Cache {
    /// `namespace/name` of the ApiRoute.
    pub object: Arc<str>,
    /// The Services at whose pods it holds.
    pub services: Vec<ServiceKey>,
    /// Of requests that come here, or of those that go out from here.
    pub side: Direction,
    chosen: Chosen,
    spans: Spans,
    max_entry_bytes: u64,
    /// Where callers keep answers, of what was told: caller and destination must agree on it.
    pub revision: Option<u128>,
    /// What is kept, from one state to the next.
    pub store: Arc<Store>,
    /// What is counted.
    pub counts: Counts,
}

/// What a request is to the cache.
#[derive(Debug)]
pub enum Asked {
    /// Nothing.
    Past(Forwarded),
    /// It changes what it is about.
    Unsafe,
    /// It can be answered.
    Question(Box<Question>),
}

/// A request that can be answered with what is kept.
#[derive(Debug)]
pub struct Question {
    /// What it asks for, and whether with credentials.
    pub wanted: Wanted,
    /// Its body is not asked for.
    pub head_only: bool,
    says: RequestDirectives,
    range: bool,
    conditional: bool,
}

/// What is done about a question.
#[derive(Debug)]
pub enum Verdict {
    /// This is given.
    Give(Arc<Entry>, Status),
    /// The same, and a new one is fetched in the background.
    Refresh(Arc<Entry>, Status),
    /// The application is asked; about this one, if there is one.
    Fetch(Forwarded, Option<Arc<Entry>>),
    /// That nothing is kept.
    Refuse,
}

// === build ===

impl Cache {
    /// Builds from what was sent; what was kept is kept on, unless it was told apart in another way or
    /// there is another bound for it.
    ///
    /// # Errors
    /// A sentence naming the field that cannot be used.
    pub fn build(
        sent: mesh::Cache,
        old: Option<&Cache>,
        counters: &Counters,
    ) -> Result<Self, String> {
        let terms = Terms::read(sent)?;
        let bounds = terms.bounds;
        let same = old.filter(|old| old.chosen == terms.chosen && old.store.bounds() == bounds);
        let store = same.map_or_else(|| Store::new(bounds), |old| old.store.clone());
        Ok(terms.cache(Direction::inbound, store, counters))
    }

    /// Its name in `Cache-Status`.
    pub fn name(&self) -> &'static str {
        match self.side {
            Direction::inbound => "meshwright",
            Direction::outbound => "meshwright-caller",
        }
    }

    // === request ===

    /// What a request is to the cache. `past`: it has a body or becomes another protocol, and nothing that
    /// is kept answers it. `credentials`: it was found out who sends it, by what the request brought.
    pub fn ask<'t>(
        &self,
        to: impl Into<To<'t>>,
        head: &Parts,
        past: bool,
        credentials: bool,
    ) -> Asked {
        let head_only = match head.method {
            Method::GET => false,
            Method::HEAD => true,
            Method::OPTIONS | Method::TRACE => return Asked::Past(Forwarded::Method),
            _ => return Asked::Unsafe,
        };
        // Whatever its method, it may be another request for the application.
        if head.headers.keys().any(names_a_method) {
            return Asked::Unsafe;
        }
        let elsewhere = head.headers.keys().any(names_a_path);
        let says = RequestDirectives::of(&head.headers);
        if past || elsewhere || says.no_store || answer::has_preconditions(&head.headers) {
            return Asked::Past(Forwarded::Bypass);
        }
        let sent = head.headers.keys().any(|name| self.says_who_asks(name));
        let own = self.chosen.credentials.as_ref();
        Asked::Question(Box::new(Question {
            wanted: Wanted {
                key: Key::of(to.into(), head, &self.chosen),
                credentials: credentials || sent || own.is_some_and(|own| own.are_in(head)),
            },
            head_only,
            says,
            range: head.headers.contains_key(RANGE),
            conditional: answer::is_conditional(&head.headers),
        }))
    }

    /// Whether what is answered to a request with such a header may be for one person alone. A name
    /// that is chosen to tell answers apart tells them apart by person already.
    fn says_who_asks(&self, name: &HeaderName) -> bool {
        [AUTHORIZATION, COOKIE].contains(name)
            || names_a_person(name) && !self.chosen.headers.contains(name)
    }

    /// What is done about a question of a request with these headers (RFC 9111 section 4).
    pub fn consult(&self, question: &Question, headers: &HeaderMap) -> Verdict {
        let now = Instant::now();
        let says = &question.says;
        let fetch = |why, entry| match says.only_if_cached {
            true => Verdict::Refuse,
            false => Verdict::Fetch(why, entry),
        };
        let entry = match self.store.find(&question.wanted.key, headers) {
            Found::Nothing => return fetch(Forwarded::Uri, None),
            Found::Others => return fetch(Forwarded::Vary, None),
            Found::Entry(entry) => entry,
        };
        if question.wanted.credentials && !entry.is_for_all() {
            return fetch(Forwarded::Miss, None);
        }
        let young = says.max_age.is_none_or(|most| entry.age(now) <= most);
        let (ttl, stale) = (entry.ttl(now), entry.stale(now));
        match ttl {
            _ if says.no_cache => fetch(Forwarded::Request, Some(entry)),
            Some(left) if young && says.min_fresh.is_none_or(|least| left >= least) => {
                Verdict::Give(entry, Status::hit(left))
            }
            Some(_) => fetch(Forwarded::Request, Some(entry)),
            None if !young || says.min_fresh.is_some() => fetch(Forwarded::Stale, Some(entry)),
            None if entry.may_be_stale() && says.max_stale.is_some_and(|most| stale <= most) => {
                Verdict::Give(entry, Status::stale(stale))
            }
            None if entry.while_revalidate(now) => Verdict::Refresh(entry, Status::stale(stale)),
            None => fetch(Forwarded::Stale, Some(entry)),
        }
    }

    /// Whether others may wait for what is fetched to answer a question, and it for what others
    /// fetch. `about`: the application is asked whether an answer is still right.
    pub fn may_share(&self, question: &Question, about: bool) -> bool {
        let whole = !question.head_only && !question.range && (about || !question.conditional);
        whole && !question.says.no_cache && self.store.may_be_fit(&question.wanted)
    }

    /// Makes a request ask about an answer, or for a new one in its place. Who asks for a part, or for
    /// the head alone, asks for that.
    pub fn prepare(
        &self,
        question: &Question,
        entry: Option<&Entry>,
        headers: &mut HeaderMap,
    ) -> bool {
        match entry {
            Some(entry) if !question.range && !question.head_only => {
                match entry.can_be_validated() {
                    true => answer::ask_about(entry, headers),
                    false => answer::ask_for_all(headers),
                }
                entry.can_be_validated()
            }
            _ => false,
        }
    }

    /// Whether an answer may be given where the application has none (RFC 5861 section 4).
    pub fn instead<'e>(
        &self,
        question: &Question,
        entry: Option<&'e Arc<Entry>>,
    ) -> Option<(&'e Arc<Entry>, Status)> {
        let now = Instant::now();
        let entry = entry.filter(|entry| !question.says.no_cache && entry.if_error(now))?;
        Some((entry, Status::stale(entry.stale(now))))
    }

    /// What of a response to a question is kept.
    ///
    /// # Errors
    /// Why nothing is.
    pub fn judge(
        &self,
        question: &Question,
        asked: &HeaderMap,
        response: &response::Parts,
        since: Instant,
    ) -> Result<Draft, Unfit> {
        // Of who asks for a part, an error may be about that.
        if question.head_only || question.range && response.status != StatusCode::OK {
            return Err(Unfit::Status);
        }
        // It says nothing of what was asked for, but why it was not answered.
        if response.headers.contains_key(REASON_HEADER) {
            return Err(Unfit::OfTheMesh);
        }
        let (credentials, times) = (question.wanted.credentials, Times::since(since));
        let draft = Draft::of(asked, credentials, response, times, &self.spans)?;
        match draft
            .length()
            .is_some_and(|length| length > self.max_entry_bytes)
        {
            true => Err(Unfit::Large),
            false => Ok(draft),
        }
    }

    /// What the application's word that an answer is still right makes of it, which may be that it is not
    /// kept; nothing when it speaks of another.
    pub fn freshen(
        &self,
        question: &Question,
        asked: &HeaderMap,
        entry: &Entry,
        response: &response::Parts,
        since: Instant,
    ) -> Option<Freshened> {
        let (credentials, times) = (question.wanted.credentials, Times::since(since));
        entry.freshened(asked, response, credentials, times, &self.spans)
    }

    /// Keeps an answer whose body will pass, of a fetch with this number.
    pub fn fill(
        self: &Arc<Self>,
        wanted: &Wanted,
        draft: Draft,
        begun: u64,
        lead: Option<Lead>,
    ) -> Fill {
        let lead = match (draft.is_fresh(), lead) {
            (true, lead) => lead,
            // Each asks for itself.
            (false, lead) => {
                self.alone(wanted, lead);
                None
            }
        };
        let length = draft.length().unwrap_or_default();
        let mut room = self.store.room();
        let left = if room.more(length) { length } else { 0 };
        Fill {
            cache: self.clone(),
            wanted: wanted.clone(),
            draft,
            body: Vec::with_capacity(usize::try_from(left).unwrap_or_default()),
            begun,
            lead,
            room,
            left,
        }
    }

    /// An answer is for nobody else: those who wait for it go on, and the next ones don't wait.
    pub fn alone(&self, wanted: &Wanted, lead: Option<Lead>) {
        self.store.is_unfit(wanted);
        if let Some(lead) = lead {
            lead.alone();
        }
    }

    /// The same, of a question to which an answer could have been kept; where the application has
    /// failed, the next ones wait again.
    pub fn alone_if_whole(&self, question: &Question, failed: bool, lead: Option<Lead>) {
        match (failed || question.is_of_a_part(), lead) {
            (false, lead) => self.alone(&question.wanted, lead),
            (true, Some(lead)) => lead.alone(),
            (true, None) => {}
        }
    }

    /// A request has changed what it was about, as its response says (RFC 9111 section 4.4): nothing
    /// that is kept of its path holds, whatever the query, nor of those that the response names on the
    /// same host.
    pub fn changed(&self, port: u16, asked: &Parts, response: &response::Parts) {
        let status = response.status;
        let done = status.is_success() || status.is_redirection();
        // What it asks for follows, or the next sidecar does not know what became of it.
        let unknown = status == StatusCode::SWITCHING_PROTOCOLS
            || status.is_server_error() && response.headers.contains_key(REASON_HEADER);
        if done || unknown {
            self.may_have_changed(port, asked);
        }
        if !done {
            return;
        }
        let place = key::place(port, asked);
        let touch = |path: &[u8]| self.store.touch(&[&place, path].concat());
        for name in [LOCATION, CONTENT_LOCATION] {
            let named = response.headers.get(&name);
            let path = named.and_then(|named| path_here(asked, named.to_str().ok()?));
            if let Some(path) = path {
                touch(path.as_bytes());
            }
        }
    }

    /// A request may have changed what it was about: whatever is kept of its path is asked for again.
    pub fn may_have_changed(&self, port: u16, asked: &Parts) {
        let place = key::place(port, asked);
        let path = asked.uri.path().as_bytes();
        self.store.touch(&[&place, path].concat());
    }
}

/// The path that a response names, in its normal form, if it is on the host that was asked.
fn path_here(asked: &Parts, named: &str) -> Option<String> {
    let path = match named.split_once("://") {
        Some((_, rest)) => {
            let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(at);
            let here = authority
                .as_bytes()
                .eq_ignore_ascii_case(key::authority(asked));
            Some(path).filter(|_| here)?
        }
        None if named.starts_with("//") => return None,
        None => named,
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let whole = match path {
        "" => return Some("/".to_owned()).filter(|_| named.contains("://")),
        path if path.starts_with('/') => path.to_owned(),
        // Beside the path that was asked for (RFC 3986 section 5.2.3).
        path => {
            let (folder, _) = asked.uri.path().rsplit_once('/')?;
            format!("{folder}/{path}")
        }
    };
    let normal = wire::path::normalise(whole.as_bytes()).ok()?;
    Some(normal.into_owned())
}

// === impl Question ===

impl Question {
    /// The same about all that is answered, whoever asks and whatever for.
    pub fn whole(&self) -> Self {
        Self {
            wanted: self.wanted.clone(),
            head_only: false,
            says: RequestDirectives::default(),
            range: false,
            conditional: false,
        }
    }

    /// Whether it asks for less than all that is answered, whatever its sender has.
    pub fn asks_for_a_part(&self) -> bool {
        self.head_only || self.range
    }

    /// Whether what is answered says nothing of what is answered to others.
    pub fn is_of_a_part(&self) -> bool {
        self.head_only || self.range || self.conditional
    }
}

// === impl Times ===

impl Times {
    /// Asked for then, and come now.
    pub fn since(asked: Instant) -> Self {
        Self {
            asked,
            came: Instant::now(),
            wall: SystemTime::now(),
        }
    }
}
