//! Addresses and names that mean nothing here yet: which are worth a question, and who is asked.
//!
//! A sidecar holds the Services of its own namespace and those that these lead to. Others it asks for when
//! they are first called ([`wire::lookup`]), and holds from then on. What is called meanwhile waits; when
//! no answer comes it is refused, because what governs such calls is not known.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use wire::client::Claiming;
use wire::discovery::{Claim, Grant};
use wire::lookup::Question;
use wire::mesh;

use super::service::ServiceKey;
use super::state::State;
use crate::telemetry::metrics::Metrics;

/// How long a call waits for an answer: an operator that is there answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a claim waits for an answer: the operator asks a store.
const PATIENCE_OF_CLAIMS: Duration = Duration::from_secs(3);
/// The most networks that are held; the operator sends fewer.
const MAX_NETWORKS: usize = 1024;
/// The most questions, and the most claims, that wait to be asked.
pub const WAITING: usize = 256;

/// Where addresses lie that are worth a question.
#[derive(Clone, Debug, Default)]
pub struct Networks(Vec<IpNet>);

/// What a question was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What was asked.
    pub question: Question,
    /// The Services that have the address or the name.
    pub services: Vec<ServiceKey>,
}

/// Answers by question, linked.
#[derive(Debug, Default)]
pub struct Answers {
    networks: Arc<Networks>,
    answers: HashMap<Question, Arc<Answer>>,
}

/// Asks, and waits for the answers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Asking {
    questions: mpsc::Sender<Question>,
    claims: mpsc::Sender<Claiming>,
    states: watch::Receiver<Arc<State>>,
    metrics: Arc<Metrics>,
}

// === build ===

impl Networks {
    /// Builds what was sent.
    ///
    /// # Errors
    /// What is no network.
    pub fn build(sent: &mesh::Networks) -> Result<Self, String> {
        if sent.networks.len() > MAX_NETWORKS {
            return Err(format!("more than {MAX_NETWORKS} networks"));
        }
        let networks = sent.networks.iter().map(|network| {
            let read = network.parse();
            read.map_err(|_| format!("{network:?} is no network"))
        });
        networks.collect::<Result<_, _>>().map(Self)
    }
}

impl Answer {
    /// Builds what was sent under the id of a question.
    pub fn build(question: Question, sent: &mesh::Lookup) -> Self {
        let services = sent.services.iter();
        let services = services.map(|service| ServiceKey::new(&service.namespace, &service.name));
        Self {
            question,
            services: services.collect(),
        }
    }
}

impl Answers {
    /// Links what was built.
    pub fn link<'a>(
        networks: Option<&Arc<Networks>>,
        answers: impl Iterator<Item = &'a Arc<Answer>>,
    ) -> Self {
        let answers = answers.map(|answer| (answer.question.clone(), answer.clone()));
        Self {
            networks: networks.cloned().unwrap_or_default(),
            answers: answers.collect(),
        }
    }
}

// === request ===

impl State {
    /// What to ask before a call to this address is taken for one to the outside, or to a pod by one of
    /// its Services; `None` when all is known.
    pub fn question(&self, address: SocketAddr) -> Option<Question> {
        let known = match self.called(address) {
            Some(called) if called.place.is_none() => true,
            // Of several Services over a pod the one whose address it is is meant, and of another namespace
            // not all are held: what a Service of the own one merely names may be a pod of theirs.
            Some(called) => {
                self.is_own(called.service.key.parts().0)
                    && called.endpoint().is_some_and(|one| one.own_address)
            }
            None => self.is_virtual(address.ip()),
        };
        if known || !self.answers.is_inside(address.ip()) {
            return None;
        }
        let question = Question::Address(address.ip().to_canonical());
        (!self.is_answered(&question)).then_some(question)
    }

    /// What to ask before a host name is taken for one that no Service has.
    pub fn question_of(&self, host: &str) -> Option<Question> {
        if !self.answers.may_be_asked() || self.named(host).is_some() {
            return None;
        }
        let question = Question::of_host(host)?;
        match &question {
            Question::Service { namespace, .. } if self.is_own(namespace) => None,
            _ => (!self.is_answered(&question)).then_some(question),
        }
    }

    /// Whether there is an answer, and what it leads to.
    fn is_answered(&self, question: &Question) -> bool {
        self.answers.get(question).is_some_and(|answer| {
            let mut services = answer.services.iter();
            answer.services.is_empty() || services.any(|one| self.service(one).is_some())
        })
    }

    fn is_own(&self, namespace: &str) -> bool {
        let own = self.built.workload.as_ref();
        own.is_some_and(|own| *own.namespace == *namespace)
    }
}

impl Answers {
    /// Whether the address lies where one is asked about.
    pub fn is_inside(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.0.iter().any(|one| one.contains(&address))
    }

    /// Whether there is anybody who answers: an operator that knows of questions says so by its networks.
    pub fn may_be_asked(&self) -> bool {
        !self.networks.0.is_empty()
    }

    /// The answer, if there is one yet.
    pub fn get(&self, question: &Question) -> Option<&Answer> {
        self.answers.get(question).map(|answer| &**answer)
    }

    /// Every answer, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Answer>> {
        self.answers.values()
    }
}

impl Asking {
    /// Questions go to the first, and claims to the second; who has the questions answers with states on the third.
    pub fn new(
        questions: mpsc::Sender<Question>,
        claims: mpsc::Sender<Claiming>,
        states: watch::Receiver<Arc<State>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            questions,
            claims,
            states,
            metrics,
        }
    }

    /// Claims what one sidecar alone does at a time; `None` when nobody answers in time.
    pub async fn claim(&self, claim: Claim) -> Option<Grant> {
        let (answer, granted) = oneshot::channel();
        self.claims.try_send(Claiming { claim, answer }).ok()?;
        timeout(PATIENCE_OF_CLAIMS, granted).await.ok()?.ok()
    }

    /// Asks, and waits until a state has the answer: its number, or `None` when none came in time. Many
    /// may wait for one answer.
    pub async fn ask(&self, question: Question) -> Option<u64> {
        let answered = |state: &Arc<State>| state.answers.get(&question).is_some();
        let mut states = self.states.clone();
        if !answered(&states.borrow()) {
            // With too many before it, it may still be answered on another's behalf.
            let _ = self.questions.try_send(question.clone());
        }
        let state = timeout(PATIENCE, states.wait_for(answered)).await;
        let number = match state {
            Ok(Ok(state)) => Some(state.number),
            _ => None,
        };
        self.metrics.looked_up(number.is_some());
        if number.is_none() {
            tracing::warn!(about = %question, "the operator did not answer in time; calls there are refused");
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::super::service::Service;
    use super::super::state::Built;
    use super::*;

    fn service(key: &str, virtual_address: &str, pod: &str) -> Arc<Service> {
        over(key, virtual_address, pod, true)
    }

    /// A Service over an address that is the pod's own, or that an EndpointSlice merely names.
    fn over(key: &str, virtual_address: &str, pod: &str, own_address: bool) -> Arc<Service> {
        let (namespace, name) = key.split_once('/').unwrap();
        let endpoint = mesh::Endpoint {
            address: pod.into(),
            port: 8080,
            own_address,
            ..Default::default()
        };
        let port = mesh::ServicePort {
            port: 80,
            protocol: mesh::Protocol::Http.into(),
            endpoints: vec![endpoint],
            ..Default::default()
        };
        let sent = mesh::Endpoints {
            namespace: namespace.into(),
            service: name.into(),
            hosts: vec![format!("{name}.{namespace}")],
            addresses: vec![virtual_address.into()],
            ports: vec![port],
        };
        Arc::new(Service::build(sent, None).unwrap())
    }

    fn answer(question: &Question, services: &[(&str, &str)]) -> (String, Arc<Answer>) {
        let services = services.iter().map(|(namespace, name)| mesh::ServiceRef {
            namespace: (*namespace).into(),
            name: (*name).into(),
        });
        let sent = mesh::Lookup {
            services: services.collect(),
        };
        let built = Answer::build(question.clone(), &sent);
        (question.id().to_string(), Arc::new(built))
    }

    fn built(networks: &[&str]) -> Built {
        let sent = mesh::Networks {
            networks: networks.iter().map(|one| (*one).to_owned()).collect(),
        };
        let own = mesh::Workload {
            namespace: "web".into(),
            ..Default::default()
        };
        Built {
            networks: Some(Arc::new(Networks::build(&sent).unwrap())),
            workload: Some(Arc::new(super::super::guard::Workload::build(own).unwrap())),
            ..Built::default()
        }
    }

    fn asks(built: &Built, address: &str) -> bool {
        let state = State::link(built.clone());
        state.question(address.parse().unwrap()).is_some()
    }

    #[test]
    fn an_address_inside_that_means_nothing_is_asked_about_once_and_one_outside_never() {
        let mut built = built(&["10.96.0.0/16", "10.244.0.0/16"]);
        assert!(asks(&built, "10.96.0.7:80"));
        assert!(asks(&built, "[::ffff:10.244.1.2]:8080"));
        assert!(!asks(&built, "93.184.216.34:443"));
        let question = Question::Address("10.96.0.7".parse().unwrap());
        built.answers.extend([answer(&question, &[])]);
        assert!(!asks(&built, "10.96.0.7:80"), "it is nobody's");
        // Without networks there is nobody to ask.
        built.networks = None;
        assert!(!asks(&built, "10.96.0.8:80"));
    }

    #[test]
    fn an_answer_that_leads_to_what_is_not_held_is_none_yet() {
        let mut built = built(&["10.96.0.0/16"]);
        let question = Question::Address("10.96.0.7".parse().unwrap());
        built
            .answers
            .extend([answer(&question, &[("shop", "orders")])]);
        assert!(asks(&built, "10.96.0.7:80"));
        let orders = service("shop/orders", "10.96.0.7", "10.244.1.2");
        built
            .services
            .insert("endpoints/shop/orders".into(), orders);
        assert!(!asks(&built, "10.96.0.7:80"));
        assert!(
            !asks(&built, "10.96.0.7:81"),
            "a port that the Service lacks"
        );
    }

    #[test]
    fn a_pods_own_address_elsewhere_is_asked_about_even_if_one_of_its_services_is_held() {
        let mut built = built(&["10.96.0.0/16", "10.244.0.0/16"]);
        let orders = service("shop/orders", "10.96.0.7", "10.244.1.2");
        built
            .services
            .insert("endpoints/shop/orders".into(), orders);
        assert!(!asks(&built, "10.96.0.7:80"));
        assert!(
            asks(&built, "10.244.1.2:8080"),
            "another Service over it may be meant"
        );
        let own = service("web/page", "10.96.0.9", "10.244.1.3");
        built.services.insert("endpoints/web/page".into(), own);
        assert!(
            !asks(&built, "10.244.1.3:8080"),
            "of the own namespace all are held"
        );
    }

    #[test]
    fn an_address_that_a_slice_of_the_own_namespace_merely_names_is_asked_about() {
        let mut built = built(&["10.96.0.0/16", "10.244.0.0/16"]);
        let named = over("web/theirs", "10.96.0.9", "10.244.1.2", false);
        built.services.insert("endpoints/web/theirs".into(), named);
        assert!(
            asks(&built, "10.244.1.2:8080"),
            "it may be a pod of another namespace, with policies of its own"
        );
        let question = Question::Address("10.244.1.2".parse().unwrap());
        built.answers.extend([answer(&question, &[])]);
        assert!(!asks(&built, "10.244.1.2:8080"), "it is nobody else's");
    }

    #[test]
    fn a_name_is_asked_about_if_it_may_be_a_services() {
        let mut built = built(&["10.96.0.0/16"]);
        let asks = |built: &Built, host: &str| {
            let state = State::link(built.clone());
            state.question_of(host).is_some()
        };
        assert!(asks(&built, "orders.shop"));
        assert!(asks(&built, "orders.shop.svc.cluster.local"));
        assert!(
            !asks(&built, "orders"),
            "the own namespace's, of which all are held"
        );
        assert!(!asks(&built, "orders.web"), "the same");
        assert!(!asks(&built, "api.example.com"));
        let question = Question::of_host("orders.shop").unwrap();
        built.answers.extend([answer(&question, &[])]);
        assert!(!asks(&built, "orders.shop"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_waits_for_the_answer_and_not_for_ever() {
        let (questions, mut asked) = mpsc::channel(1);
        let (states, following) = watch::channel(Arc::new(State::default()));
        let claims = mpsc::channel(1).0;
        let asking = Asking::new(questions, claims, following, Arc::new(Metrics::new()));
        let question = Question::Address("10.96.0.7".parse().unwrap());
        assert_eq!(asking.ask(question.clone()).await, None);
        assert_eq!(asked.recv().await.as_ref(), Some(&question));

        let waiting = tokio::spawn({
            let (asking, question) = (asking.clone(), question.clone());
            async move { asking.ask(question).await }
        });
        asked.recv().await.unwrap();
        let mut built = built(&["10.96.0.0/16"]);
        built.answers.extend([answer(&question, &[])]);
        let mut state = State::link(built);
        state.number = 7;
        states.send_replace(Arc::new(state));
        assert_eq!(waiting.await.unwrap(), Some(7));
        assert_eq!(asking.ask(question).await, Some(7), "at once");
        assert!(asked.try_recv().is_err(), "and nobody is asked again");
    }

    #[test]
    fn what_is_no_network_is_rejected() {
        let sent = mesh::Networks {
            networks: vec!["10.96.0.0".into()],
        };
        let why = Networks::build(&sent).unwrap_err();
        assert!(why.contains("\"10.96.0.0\" is no network"), "{why}");
    }
}
