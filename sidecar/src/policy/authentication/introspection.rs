//! Tokens that say nothing themselves: a server is asked what they are worth (RFC 7662).
//!
//! Each worker remembers what it was told, for as long as the policy says and no longer than the token
//! lasts; that a token is worth nothing for some seconds. It asks about a bounded number of tokens at
//! once, about each of them once however many requests bring it, and remembers a bounded number, each by
//! its SHA-256.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use wire::{json, mesh};

use super::credential::Place;
use super::jwt::{MAX_TOKEN, Token};
use super::tell::Tell;
use crate::config::remote::Remote;

/// Answers that a worker remembers, of either kind.
const MAX_ANSWERS: usize = 1024;
/// Questions that a worker has under way.
const MAX_QUESTIONS: usize = 64;
/// For how long a token is worth nothing without asking again.
const WORTHLESS: Duration = Duration::from_secs(5);
/// No answer holds longer, whatever the policy says.
const MAX_TTL: Duration = Duration::from_secs(3600);

/// Who is asked, and what is required of what is answered.
#[derive(Debug)]
pub struct Introspection {
    /// Where.
    pub endpoint: Remote,
    /// Where tokens are.
    pub from: Vec<Place>,
    /// What the application is told.
    pub tell: Tell,
    /// Whether the application gets the token.
    pub forward: bool,
    client_id: String,
    ttl: Duration,
    audiences: Vec<String>,
    required_scopes: Vec<String>,
    /// Which policy it is, so that what was told under another counts for nothing.
    number: u64,
}

/// What a worker was told.
#[derive(Debug, Default)]
pub struct Answers {
    active: RefCell<HashMap<Hash, Active>>,
    inactive: RefCell<HashMap<Hash, Instant>>,
    questions: Rc<Questions>,
}

/// A token that is good.
#[derive(Debug)]
struct Active {
    token: Arc<Token>,
    /// When that was told.
    told: Instant,
    /// When it ends itself.
    until: Instant,
}

/// Tokens that are asked about; who waits for an answer is told that there is none.
type Questions = RefCell<HashMap<Hash, watch::Sender<bool>>>;

/// Of a policy's number and a token.
type Hash = [u8; 32];

/// What to do about a token of which nothing is known.
#[derive(Debug)]
pub enum Ask {
    /// To ask.
    Question(Question),
    /// To wait: somebody asks. Whether there is an answer, or nobody asks any more.
    Wait(watch::Receiver<bool>),
}

/// A question under way. Dropped, another asks.
#[derive(Debug)]
pub struct Question {
    all: Rc<Questions>,
    hash: Hash,
}

/// What is known of a token.
#[derive(Clone, Debug)]
pub enum Worth {
    /// It is good, and says this.
    Active(Arc<Token>),
    /// It is worth nothing.
    Inactive,
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The server says that it is worth nothing.
    Inactive,
    /// It is for somebody else.
    WrongAudience,
    /// A scope is missing.
    MissingScope,
}

// === build ===

impl Introspection {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming what cannot be used.
    pub fn build(sent: mesh::Introspection, old: Option<&Self>) -> Result<Self, String> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let endpoint = sent.endpoint.ok_or("there is nobody to ask")?;
        let ttl = Duration::from_millis(sent.ttl_ms);
        if ttl.is_zero() || ttl > MAX_TTL || sent.from.is_empty() {
            return Err("an answer holds too long or not at all, or tokens are nowhere".to_owned());
        }
        let endpoint = Remote::build(endpoint)?;
        // What was told holds on as long as the same server is asked by the same client.
        let same = old.filter(|old| old.endpoint == endpoint && old.client_id == sent.client_id);
        Ok(Self {
            number: same.map_or_else(|| NUMBERS.fetch_add(1, Ordering::Relaxed), |old| old.number),
            endpoint,
            from: sent
                .from
                .iter()
                .map(Place::build)
                .collect::<Result<_, _>>()?,
            tell: Tell::build(sent.claims_to_headers)?,
            forward: sent.forward,
            client_id: sent.client_id,
            ttl,
            audiences: sent.audiences,
            required_scopes: sent.required_scopes,
        })
    }

    // === request ===

    /// The question about a token; `None` for what is none.
    pub fn question(&self, token: &str, password: &str) -> Option<Request<Bytes>> {
        if token.is_empty() || token.len() > MAX_TOKEN {
            return None;
        }
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.append_pair("token", token);
        body.append_pair("token_type_hint", "access_token");
        let encoded =
            |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        // Encoded as forms are first (RFC 6749 section 2.3.1).
        let client = format!("{}:{}", encoded(&self.client_id), encoded(password));
        let client = format!("Basic {}", BASE64_STANDARD.encode(client));
        let mut client = HeaderValue::from_str(&client).ok()?;
        client.set_sensitive(true);
        let mut request = Request::new(Bytes::from(body.finish()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.uri().clone();
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, client);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        Some(request)
    }

    /// What an answer says.
    ///
    /// # Errors
    /// A sentence, of an answer that is none.
    pub fn read(&self, answer: &[u8]) -> Result<Worth, String> {
        let members = json::object(answer).map_err(|error| error.to_string())?;
        match members.get("active") {
            Some(Value::Bool(true)) => {}
            Some(Value::Bool(false)) => return Ok(Worth::Inactive),
            _ => return Err("the answer does not say whether the token is active".to_owned()),
        }
        Token::introspected(members)
            .map(|token| Worth::Active(Arc::new(token)))
            .map_err(|refused| format!("the answer has a time that is none: {}", refused.name()))
    }

    /// Whether a token that is good may be used here.
    ///
    /// # Errors
    /// What it lacks.
    pub fn accept(&self, token: &Token, now: SystemTime) -> Result<(), Refused> {
        if token.expires() <= now {
            return Err(Refused::Inactive);
        }
        if !self.audiences.is_empty() {
            let ours = |name: &str| self.audiences.iter().any(|audience| audience == name);
            let fits = match token.claim("aud") {
                Some(Value::String(name)) => ours(name),
                Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(ours),
                _ => false,
            };
            if !fits {
                return Err(Refused::WrongAudience);
            }
        }
        let granted = |scope: &String| token.scopes().any(|granted| granted == scope);
        match self.required_scopes.iter().all(granted) {
            true => Ok(()),
            false => Err(Refused::MissingScope),
        }
    }

    fn hash(&self, token: &str) -> Hash {
        let numbered = [&self.number.to_be_bytes()[..], token.as_bytes()].concat();
        let mut hash = Hash::default();
        hash.copy_from_slice(digest(&SHA256, &numbered).as_ref());
        hash
    }
}

impl Answers {
    /// What is known of a token, if anything is.
    pub fn of(&self, asked: &Introspection, token: &str) -> Option<Worth> {
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Some(Worth::Inactive);
        }
        let (hash, now) = (asked.hash(token), Instant::now());
        if let Some(active) = self.active.borrow().get(&hash)
            && now < active.until.min(active.told + asked.ttl)
        {
            return Some(Worth::Active(active.token.clone()));
        }
        let inactive = self.inactive.borrow();
        let worthless = inactive.get(&hash).is_some_and(|until| now < *until);
        worthless.then_some(Worth::Inactive)
    }

    /// Takes a place for a question about a token, if nobody asks about it and there is one.
    pub fn ask(&self, asked: &Introspection, token: &str) -> Option<Ask> {
        let hash = asked.hash(token);
        let mut questions = self.questions.borrow_mut();
        if let Some(asking) = questions.get(&hash) {
            return Some(Ask::Wait(asking.subscribe()));
        }
        (questions.len() < MAX_QUESTIONS).then(|| {
            questions.insert(hash, watch::Sender::new(false));
            Ask::Question(Question {
                all: self.questions.clone(),
                hash,
            })
        })
    }

    /// Remembers an answer.
    pub fn remember(&self, asked: &Introspection, token: &str, worth: &Worth, wall: SystemTime) {
        let (hash, now) = (asked.hash(token), Instant::now());
        match worth {
            Worth::Inactive => {
                let mut inactive = self.inactive.borrow_mut();
                make_room(&mut inactive, |until| *until, now);
                inactive.insert(hash, now + WORTHLESS);
            }
            Worth::Active(token) => {
                let lasts = token.expires().duration_since(wall).unwrap_or_default();
                let mut active = self.active.borrow_mut();
                make_room(&mut active, |active| active.until, now);
                let known = Active {
                    token: token.clone(),
                    told: now,
                    until: now + lasts.min(MAX_TTL),
                };
                active.insert(hash, known);
            }
        }
    }
}

/// What is out of its time goes when there is no room, and what would go first if nothing is.
fn make_room<T>(answers: &mut HashMap<Hash, T>, until: impl Fn(&T) -> Instant, now: Instant) {
    if answers.len() < MAX_ANSWERS {
        return;
    }
    answers.retain(|_, answer| now < until(answer));
    if answers.len() >= MAX_ANSWERS {
        let first = answers.iter().min_by_key(|(_, answer)| until(answer));
        if let Some(first) = first.map(|(hash, _)| *hash) {
            answers.remove(&first);
        }
    }
}

impl Question {
    /// There is no answer: nobody else asks for it now.
    pub fn unanswered(self) {
        if let Some(asking) = self.all.borrow().get(&self.hash) {
            asking.send_replace(true);
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.all.borrow_mut().remove(&self.hash);
    }
}

// === impl Refused ===

impl Refused {
    /// For metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::WrongAudience => "wrong_audience",
            Self::MissingScope => "missing_scope",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Introspection {
        let sent = mesh::Introspection {
            endpoint: Some(mesh::Remote {
                uri: "http://issuer.auth/introspect".into(),
                ..Default::default()
            }),
            client_id: "orders:1".into(),
            ttl_ms: 60_000,
            audiences: vec!["orders".into()],
            required_scopes: vec!["read".into()],
            from: vec![mesh::TokenSource {
                place: mesh::CredentialPlace::Header.into(),
                name: "authorization".into(),
                prefix: "Bearer".into(),
            }],
            ..Default::default()
        };
        Introspection::build(sent, None).unwrap()
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000)
    }

    #[test]
    fn the_question_is_a_form_and_says_who_asks() {
        let question = asked().question("a&b=c", "p:ss wörd").unwrap();
        assert_eq!(
            &**question.body(),
            b"token=a%26b%3Dc&token_type_hint=access_token"
        );
        let client = question.headers()[AUTHORIZATION].to_str().unwrap();
        let decoded = BASE64_STANDARD.decode(client.strip_prefix("Basic ").unwrap());
        assert_eq!(decoded.unwrap(), b"orders%3A1:p%3Ass+w%C3%B6rd");
        assert!(asked().question("", "p").is_none());
        assert!(asked().question(&"a".repeat(MAX_TOKEN + 1), "p").is_none());
    }

    #[test]
    fn an_answer_is_believed_only_when_it_says_so_in_one_way() {
        for answer in [
            "",
            "{}",
            "[]",
            "true",
            r#"{"active":"true"}"#,
            r#"{"active":1}"#,
            r#"{"active":null}"#,
            r#"{"active":false,"active":true}"#,
            r#"{"active":true,"exp":"x"}"#,
            "<html>",
        ] {
            assert!(asked().read(answer.as_bytes()).is_err(), "{answer}");
        }
        let inactive = asked().read(br#"{"active":false,"scope":"read"}"#);
        assert!(matches!(inactive, Ok(Worth::Inactive)));
    }

    #[test]
    fn a_good_token_must_be_for_us_in_its_time_and_have_the_scopes() {
        let judged = |claims: &str| match asked().read(claims.as_bytes()).unwrap() {
            Worth::Active(token) => asked().accept(&token, now()),
            Worth::Inactive => panic!("{claims}"),
        };
        let good = r#"{"active":true,"aud":["x","orders"],"scope":"read write","exp":1001}"#;
        assert_eq!(judged(good), Ok(()));
        let no_end = r#"{"active":true,"aud":"orders","scope":"read"}"#;
        assert_eq!(judged(no_end), Ok(()));
        for (claims, refused) in [
            (
                r#"{"active":true,"aud":"orders","scope":"read","exp":1000}"#,
                Refused::Inactive,
            ),
            (
                r#"{"active":true,"aud":"other","scope":"read"}"#,
                Refused::WrongAudience,
            ),
            (r#"{"active":true,"scope":"read"}"#, Refused::WrongAudience),
            (
                r#"{"active":true,"aud":"orders","scope":"reader"}"#,
                Refused::MissingScope,
            ),
        ] {
            assert_eq!(judged(claims), Err(refused), "{claims}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_holds_for_its_time_and_no_longer_than_the_token() {
        let (asked, answers) = (asked(), Answers::default());
        let told = |text: &str| asked.read(text.as_bytes()).unwrap();
        let active = |token: &str| matches!(answers.of(&asked, token), Some(Worth::Active(_)));
        let long = told(r#"{"active":true}"#);
        let short = told(r#"{"active":true,"exp":1010}"#);
        answers.remember(&asked, "long", &long, now());
        answers.remember(&asked, "short", &short, now());
        answers.remember(&asked, "bad", &Worth::Inactive, now());
        assert!(active("long") && active("short"));
        assert!(matches!(answers.of(&asked, "bad"), Some(Worth::Inactive)));
        assert!(answers.of(&asked, "other").is_none());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(answers.of(&asked, "bad").is_none());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(active("long") && !active("short"));
        tokio::time::advance(Duration::from_secs(50)).await;
        assert!(!active("long"));
    }

    #[tokio::test(start_paused = true)]
    async fn any_number_of_tokens_fill_no_memory_and_ask_no_storm() {
        let (asked, answers) = (asked(), Answers::default());
        let good = asked.read(br#"{"active":true}"#).unwrap();
        answers.remember(&asked, "good", &good, now());
        for number in 0..3 * MAX_ANSWERS {
            answers.remember(&asked, &number.to_string(), &Worth::Inactive, now());
        }
        assert!(answers.inactive.borrow().len() <= MAX_ANSWERS);
        assert!(
            answers.of(&asked, "good").is_some(),
            "bad ones push out no good one"
        );
        let mut names = (0..).map(|number: u32| number.to_string());
        let ask = || answers.ask(&asked, &names.next()?);
        let questions: Vec<_> = std::iter::from_fn(ask).collect();
        assert_eq!(questions.len(), MAX_QUESTIONS);
        drop(questions);
        assert!(answers.ask(&asked, "a").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn one_asks_about_a_token_and_the_others_wait_for_what_it_is_told() {
        let (asked, answers) = (asked(), Answers::default());
        let ask = || answers.ask(&asked, "a");
        let wait = || match ask() {
            Some(Ask::Wait(waiting)) => waiting,
            other => panic!("{other:?}"),
        };
        let question = || match ask() {
            Some(Ask::Question(question)) => question,
            other => panic!("{other:?}"),
        };
        let first = question();
        // However many there are, none takes the place of a question.
        let mut waiting: Vec<_> = (0..2 * MAX_QUESTIONS).map(|_| wait()).collect();
        drop(first);
        for one in &mut waiting {
            assert!(one.changed().await.is_err(), "whoever asked has gone");
        }
        let (second, mut waiting) = (question(), wait());
        second.unanswered();
        assert!(waiting.changed().await.is_ok() && *waiting.borrow());
        drop(question());
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_time_holds_for_what_was_told_before_it() {
        let (long, answers) = (asked(), Answers::default());
        let worth = long.read(br#"{"active":true}"#).unwrap();
        answers.remember(&long, "a", &worth, now());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(answers.of(&long, "a").is_some());
        let mut short = asked();
        (short.number, short.ttl) = (long.number, Duration::from_secs(1));
        assert!(answers.of(&short, "a").is_none());
    }
}
