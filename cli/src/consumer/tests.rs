//! Keys in a folder, from the first to the last; and that all who read them agree.

use std::cell::RefCell;
use std::fs;
use std::time::{Duration, SystemTime};

use compiler::ObjectKey;
use operator::source::reading::{Reading, read_folder};
use sidecar::config::access::Keys;
use sidecar::policy::authentication::api_key::Refused;
use wire::Kind;

use super::key::Key;
use super::ring::Row;
use super::secret::Taken;
use super::*;

/// 2027-01-31T00:00:00Z.
const NOW: i64 = 1_801_353_600;
const DAY: i64 = 86_400;
const EVER: Taken = Taken {
    not_before: None,
    expires: None,
};

const ROUTE: &str = "\
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders]
  auth: {apiKey: {plans: [gold]}}
---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {selector: {app: orders}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: orders-0, namespace: shop, labels: {app: orders}}
spec: {containers: [{name: app}, {name: meshwright-sidecar}]}
status: {phase: Running, podIP: 10.0.0.1}
";

struct Shop(tempfile::TempDir);

impl Shop {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("route.yaml"), ROUTE).unwrap();
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn at<T>(&self, now: i64, does: impl FnOnce(&Ring<'_>) -> T) -> T {
        let folder = Folder::open(self.path(), None).unwrap();
        does(&Ring::of(&folder, now))
    }

    fn create(&self, name: &str) -> Made {
        let team = [("team".to_owned(), "payments".to_owned())];
        let made = self.at(NOW, |ring| ring.create(name, Some("gold"), &team, EVER));
        made.unwrap()
    }

    fn rotate(&self, now: i64, overlap: &str) -> anyhow::Result<Made> {
        let overlap = overlap.parse().unwrap();
        self.at(now, |ring| ring.rotate("acme", overlap, EVER))
    }

    fn list(&self, now: i64) -> Vec<Row> {
        self.at(now, |ring| ring.list(None)).unwrap()
    }

    /// Ids, their ends and what they are.
    fn told(&self, now: i64) -> Vec<(String, String, &'static str)> {
        let told = self.list(now).into_iter().map(|row| {
            let until = row.expires_at.unwrap_or_default();
            (row.id.unwrap_or_default(), until, row.state)
        });
        told.collect()
    }

    fn file(&self, made: &Made) -> PathBuf {
        let id = made.key.id();
        self.path()
            .join(format!("consumer-{}-{id}.yaml", made.consumer))
    }

    /// Whose key it is to a sidecar that was sent what the operator compiles from the folder.
    fn taken(&self, key: &str, now: i64) -> Result<(String, String), Refused> {
        let reading = read_folder(&[self.path().to_owned()], &Reading::default());
        assert_eq!(*reading.problems, []);
        let mut inputs = reading.inputs;
        inputs.settings.trust_domain = "cluster.local".to_owned();
        inputs.settings.cluster_domain = "cluster.local".to_owned();
        let output = compiler::compile(&inputs, compiler::Output::default());
        let object = compiler::ObjectRef::api_route(&ObjectKey::new("shop", "orders"));
        for condition in &output.verdicts[&object].conditions {
            assert!(condition.status, "{condition:?}");
        }
        let mut resources = output.resources.iter();
        let sent = resources.find(|(id, _)| id.kind == Kind::Keys).unwrap().1;
        let keys = Keys::build(sent.resource.decode().unwrap()).unwrap();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.unsigned_abs());
        let found = keys.consumers.find(key, now)?;
        Ok((found.name.to_string(), found.plan.to_string()))
    }
}

fn sentence<T>(done: anyhow::Result<T>) -> String {
    done.err().map(|error| format!("{error:#}")).unwrap()
}

#[test]
fn a_key_is_made_replaced_and_ended_in_a_folder_and_taken_meanwhile() {
    let shop = Shop::new();
    let acme = || Ok(("acme".to_owned(), "gold".to_owned()));

    let first = shop.create("acme");
    let (id, key) = (first.key.id().to_owned(), first.key.reveal().to_owned());
    let text = fs::read_to_string(shop.file(&first)).unwrap();
    assert!(
        !text.contains(&key) && text.contains("\"payments\""),
        "{text}"
    );
    assert_eq!(shop.taken(&key, NOW), acme());
    assert_eq!(shop.told(NOW), [(id.clone(), String::new(), "valid")]);

    // Two are valid at once, and the older ends.
    let second = shop.rotate(NOW, "7d").unwrap();
    let (next, new) = (second.key.id().to_owned(), second.key.reveal().to_owned());
    let end = "2027-02-07T00:00:00Z".to_owned();
    let [row, other] = &shop.list(NOW)[..] else {
        panic!("there are two");
    };
    assert_eq!((&row.consumer, &row.plan), (&other.consumer, &other.plan));
    let text = fs::read_to_string(shop.file(&second)).unwrap();
    assert!(text.contains("\"payments\""), "{text}");
    let mut expected = [
        (id.clone(), end.clone(), "valid"),
        (next.clone(), String::new(), "valid"),
    ];
    expected.sort();
    assert_eq!(shop.told(NOW), expected);
    let last = NOW + 7 * DAY - 1;
    for (sent, now, result) in [
        (&key, last, acme()),
        (&new, last, acme()),
        (&key, last + 1, Err(Refused::Expired)),
        (&new, last + 1, acme()),
    ] {
        assert_eq!(shop.taken(sent, now), result, "at {now}");
    }

    // Once more, with a longer overlap: what ends already ends no later.
    shop.rotate(NOW + DAY, "30d").unwrap();
    let of = |wanted: &str, now| {
        let mut told = shop.told(now).into_iter();
        told.find(|(id, ..)| id == wanted)
    };
    assert_eq!(of(&id, NOW), Some((id.clone(), end.clone(), "valid")));
    let later = "2027-03-03T00:00:00Z".to_owned();
    assert_eq!(of(&next, NOW).unwrap().1, later);
    assert_eq!(of(&id, NOW + 7 * DAY), Some((id.clone(), end, "expired")));

    // One, and then all.
    let told = shop.at(NOW, |ring| ring.revoke("acme", Some(&next), |_| panic!()));
    assert_eq!(
        told.unwrap(),
        [format!("key {next} of consumer acme is revoked")]
    );
    assert_eq!(shop.taken(&new, NOW), Err(Refused::Unknown));
    assert_eq!(shop.taken(&key, NOW), acme());
    let asked = RefCell::new(String::new());
    let told = shop.at(NOW, |ring| {
        ring.revoke("acme", None, |question| {
            *asked.borrow_mut() = question.to_owned();
            true
        })
    });
    assert_eq!(told.unwrap().len(), 2);
    assert!(asked.borrow().contains(&format!("key {id}")), "{asked:?}");
    assert_eq!(shop.list(NOW), []);
    assert_eq!(shop.taken(&key, NOW), Err(Refused::Unknown));
    assert!(shop.path().join("route.yaml").exists());
}

#[test]
fn nothing_is_made_twice_written_over_or_ended_by_accident() {
    let shop = Shop::new();
    let made = shop.create("acme");
    let again = shop.at(NOW, |ring| ring.create("acme", None, &[], EVER));
    let why = sentence(again);
    assert!(why.contains("`meshwright consumer rotate acme`"), "{why}");
    let why = sentence(folder::write_new(&shop.file(&made), "another"));
    assert!(why.contains("is not written over"), "{why}");
    let why = sentence(shop.at(NOW, |ring| ring.revoke("acme", None, |_| false)));
    assert!(why.contains("nothing is revoked: --yes"), "{why}");
    let why = sentence(shop.at(NOW, |ring| ring.revoke("acme", Some("nobody"), |_| true)));
    assert!(
        why.contains(&format!("it has key {}", made.key.id())),
        "{why}"
    );
    let whole = made.key.reveal();
    let why = sentence(shop.at(NOW, |ring| ring.revoke("acme", Some(whole), |_| true)));
    assert!(why.contains(made.key.id()) && !why.contains(whole), "{why}");
    let why = sentence(shop.at(NOW, |ring| ring.revoke("other", None, |_| true)));
    assert!(why.contains("`meshwright consumer create other`"), "{why}");
    assert_eq!(shop.list(NOW).len(), 1);
}

#[test]
fn what_people_wrote_is_edited_where_only_that_changes_and_is_told_otherwise() {
    let hash = format!("sha256:{}", "a".repeat(64));
    let head = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: k\n  namespace: shop\n  labels: \
                {meshwright.dev/consumer: acme}\n";
    let block =
        format!("# ours\n{head}stringData:\n  keyID: key1\n  keyHash: {hash} # never the key\n");
    let end = "expiresAt: \"2027-02-07T00:00:00Z\"\n";
    // As it was, and as it is after; none where somebody has to edit it.
    let cases = [
        (
            block.clone(),
            Some(block.replace("  keyHash", &format!("  {end}  keyHash"))),
        ),
        (
            format!("{block}  expiresAt: 2028-01-01T00:00:00Z\n"),
            Some(format!("{block}  {end}")),
        ),
        (
            format!("{head}stringData:\n  keyHash: {hash}\n  keyID: key1"),
            Some(format!(
                "{head}stringData:\n  keyHash: {hash}\n  keyID: key1\n  {end}"
            )),
        ),
        (
            format!("{block}  expiresAt: 2027-02-01T00:00:00Z\n"),
            Some(format!("{block}  expiresAt: 2027-02-01T00:00:00Z\n")),
        ),
        (
            format!("{head}stringData: {{keyID: key1, keyHash: '{hash}'}}\n"),
            None,
        ),
        (
            format!("{block}  expiresAt:\n    2028-01-01T00:00:00Z\n"),
            None,
        ),
        (format!("{block}---\n{ROUTE}"), None),
    ];
    for (before, after) in cases {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("k.yaml"), &before).unwrap();
        let shop = Shop(folder);
        let rotated = shop.rotate(NOW, "7d");
        let text = fs::read_to_string(shop.path().join("k.yaml")).unwrap();
        let files = fs::read_dir(shop.path()).unwrap().count();
        match after {
            Some(after) => {
                rotated.unwrap();
                assert_eq!((text, files), (after, 2));
            }
            None => {
                let why = sentence(rotated);
                let line = format!("k.yaml:{}: ", 1 + usize::from(before.starts_with('#')));
                assert!(why.contains(&line), "{why}");
                assert!(
                    why.contains("write `expiresAt: \"2027-02-07T00:00:00Z\"` in its"),
                    "{why}"
                );
                assert!(why.ends_with(" by hand"), "{why}");
                // Nothing is half done.
                assert_eq!((text, files), (before, 1));
            }
        }
    }
}

#[test]
fn a_secret_among_others_is_deleted_by_whoever_wrote_it_and_the_rest_is_ended() {
    let shop = Shop::new();
    let made = shop.create("acme");
    let text = fs::read_to_string(shop.file(&made)).unwrap();
    let other = text.replace(made.key.id(), "other123");
    fs::write(shop.path().join("all.yaml"), format!("{ROUTE}---\n{other}")).unwrap();
    fs::remove_file(shop.path().join("route.yaml")).unwrap();
    let why = sentence(shop.at(NOW, |ring| ring.revoke("acme", None, |_| true)));
    let told = "Secret shop/consumer-acme-other123 does not stand alone in its file: delete the \
                document by hand";
    assert!(why.contains("all.yaml:20: ") && why.contains(told), "{why}");
    assert_eq!(
        shop.told(NOW),
        [("other123".into(), String::new(), "valid")]
    );
}

#[test]
fn a_list_says_what_is_wrong_with_a_key_and_shows_no_hash() {
    let shop = Shop::new();
    let made = shop.create("acme");
    let text = fs::read_to_string(shop.file(&made)).unwrap();
    let wrong = text.replace("sha256:", "swordfish").replace("acme-", "b-");
    fs::write(shop.path().join("wrong.yaml"), wrong).unwrap();
    let rows = shop.list(NOW);
    let table = ring::table(&rows);
    let lines: Vec<&str> = table.lines().collect();
    let id = made.key.id();
    let expected = format!("shop/acme  gold  {id}  -           -        valid");
    assert_eq!(
        lines[..2],
        [
            "CONSUMER   PLAN  KEY       NOT BEFORE  EXPIRES  STATE",
            &expected
        ]
    );
    assert!(
        lines[2].ends_with(&format!(
            "unreadable (Secret consumer-b-{id}): keyHash is missing, or not sha256: and 64 \
             hexadecimal digits."
        )),
        "{table}"
    );
    let json = serde_json::to_value(&rows).unwrap();
    assert_eq!(json[0]["keyID"], id);
    assert_eq!(json[0]["state"], "valid");
    assert_eq!(json[0]["expiresAt"], serde_json::Value::Null);
    assert!(json[1]["why"].is_string());
    let hash = made.key.hash();
    let digits = hash.trim_start_matches("sha256:");
    for text in [table, json.to_string(), made.told.join("\n")] {
        assert!(
            !text.contains(digits) && !text.contains("swordfish"),
            "{text}"
        );
        assert!(!text.contains(made.key.reveal()), "{text}");
    }
}

#[test]
fn a_folder_that_is_not_understood_gets_no_key_and_says_which_namespace_it_lacks() {
    let shop = Shop::new();
    fs::write(shop.path().join("half.yaml"), "kind: [").unwrap();
    let why = sentence(shop.at(NOW, |ring| ring.create("acme", None, &[], EVER)));
    assert!(
        why.contains("can't be read whole") && why.contains("half.yaml:"),
        "{why}"
    );
    fs::write(
        shop.path().join("half.yaml"),
        ROUTE.replace("shop", "store"),
    )
    .unwrap();
    let why = sentence(shop.at(NOW, |ring| ring.create("acme", None, &[], EVER)));
    assert!(why.contains("namespaces shop and store"), "{why}");
    let named = |namespace: &str| {
        let folder = Folder::open(shop.path(), Some(namespace)).unwrap();
        Ring::of(&folder, NOW).create("acme", None, &[], EVER)
    };
    named("shop").unwrap();
    named("store").unwrap();
    let why = sentence(shop.rotate(NOW, "7d"));
    assert!(
        why.contains("each of the namespaces shop, store: say with -n"),
        "{why}"
    );
    let why = sentence(Folder::open(&shop.path().join("nowhere"), None));
    assert!(why.starts_with("--folder "), "{why}");
}

#[test]
fn a_key_that_begins_later_leaves_no_gap() {
    let shop = Shop::new();
    let first = shop.create("acme");
    let later = Taken {
        not_before: Some(NOW + 10 * DAY),
        expires: None,
    };
    let overlap = "7d".parse().unwrap();
    let second = shop.at(NOW, |ring| ring.rotate("acme", overlap, later));
    let (old, new) = (first.key, second.unwrap().key);
    let taken = |key: &Key, now| shop.taken(key.reveal(), now).is_ok();
    for (now, expected) in [
        (NOW, (true, false)),
        (NOW + 10 * DAY - 1, (true, false)),
        (NOW + 10 * DAY, (true, true)),
        (NOW + 17 * DAY - 1, (true, true)),
        (NOW + 17 * DAY, (false, true)),
    ] {
        assert_eq!((taken(&old, now), taken(&new, now)), expected, "at {now}");
    }
}

#[test]
fn keys_on_different_plans_are_not_rotated() {
    let shop = Shop::new();
    let first = shop.create("acme");
    let second = shop.rotate(NOW, "7d").unwrap();
    let text = fs::read_to_string(shop.file(&second)).unwrap();
    fs::write(shop.file(&second), text.replace("\"gold\"", "\"silver\"")).unwrap();
    let why = sentence(shop.rotate(NOW, "7d"));
    assert!(
        why.contains("on gold") && why.contains("on silver"),
        "{why}"
    );
    // When the one has ended, there is no question.
    assert!(shop.rotate(NOW + 7 * DAY, "7d").is_ok());
    let expired = shop.told(NOW + 7 * DAY);
    assert!(
        expired
            .iter()
            .any(|(id, _, state)| id == first.key.id() && *state == "expired")
    );
}

#[test]
fn a_key_is_bounded_by_moments_in_their_order() {
    let settled = |not_before: Option<&str>, expires: Option<&str>| {
        let bounds = Bounds {
            not_before: not_before.map(|text| text.parse().unwrap()),
            expires: expires.map(|text| text.parse().unwrap()),
            expires_in: None,
        };
        bounds.settled(NOW)
    };
    assert_eq!(settled(None, None).unwrap(), EVER);
    let taken = settled(Some("2027-02-01T00:00:00Z"), Some("90d")).unwrap();
    assert_eq!(
        taken.to_string(),
        "from 2027-02-01T00:00:00Z until 2027-05-01T00:00:00Z"
    );
    let why = sentence(settled(None, Some("2027-01-31T00:00:00Z")));
    assert!(why.contains("that is past"), "{why}");
    let why = sentence(settled(Some("2d"), Some("1d")));
    assert!(why.contains("not after --not-before"), "{why}");
}
