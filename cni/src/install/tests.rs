use super::*;

use serde_json::{Value, json};
use tokio::sync::oneshot;

const LIST: &str =
    r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#;
const SINGLE: &str = r#"{"type":"bridge","name":"pods","cniVersion":"0.3.1"}"#;
/// How long a change may take to be seen.
const SOON: Duration = Duration::from_secs(30);

/// A node's two folders, with these networks.
struct Node {
    folder: tempfile::TempDir,
    place: Place,
}

impl Node {
    fn new(networks: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = Place {
            programs: folder.path().join("bin"),
            networks: folder.path().join("net.d"),
        };
        fs::create_dir(&place.programs).unwrap();
        fs::create_dir(&place.networks).unwrap();
        let node = Self { folder, place };
        for (name, text) in networks {
            fs::write(node.file(name), text).unwrap();
        }
        node
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("net.d").join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.text(name)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.place.networks).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// The types of the plugins of a list, in order.
    fn plugins(&self, name: &str) -> Vec<String> {
        let list = self.json(name);
        let plugins = list["plugins"].as_array().unwrap().iter();
        plugins
            .map(|plugin| plugin["type"].as_str().unwrap().to_owned())
            .collect()
    }

    async fn until_installed(&self) {
        let installed = async {
            while self.place.is_installed().is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let seen = timeout(SOON, installed).await;
        assert!(seen.is_ok(), "{:?}", self.place.is_installed());
    }
}

#[test]
fn the_first_network_by_name_ends_with_the_plugin_and_is_as_before_once_it_is_removed() {
    let node = Node::new(&[
        ("10-pods.conflist", LIST),
        ("20-other.conflist", LIST),
        ("05-notes.txt", ""),
    ]);
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(node.file("10-pods.conflist"), mode).unwrap();

    assert_eq!(
        node.place.put_entry().unwrap(),
        Some(node.file("10-pods.conflist"))
    );
    assert_eq!(
        node.plugins("10-pods.conflist"),
        ["bridge", "portmap", PLUGIN]
    );
    assert_eq!(node.text("20-other.conflist"), LIST);
    let mode = fs::metadata(node.file("10-pods.conflist"))
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    assert_eq!(node.place.put_entry().unwrap(), None, "it is there");

    node.place.remove().unwrap();
    let before: Value = serde_json::from_str(LIST).unwrap();
    assert_eq!(node.json("10-pods.conflist"), before);
    assert_eq!(
        node.names(),
        ["05-notes.txt", "10-pods.conflist", "20-other.conflist"]
    );
}

#[test]
fn a_single_plugin_becomes_a_list_and_a_single_plugin_again() {
    for name in ["10-pods.conf", "10-pods.json"] {
        let node = Node::new(&[(name, SINGLE)]);
        node.place.put_entry().unwrap();
        assert_eq!(node.plugins("10-pods.conflist"), ["bridge", PLUGIN]);
        let kept = format!("{name}.meshwright");
        assert!(node.names().contains(&kept) && !node.names().contains(&name.into()));

        node.place.remove().unwrap();
        assert_eq!(node.names(), [name]);
        assert_eq!(node.text(name), SINGLE);
    }
}

#[test]
fn a_single_plugin_that_was_a_list_stays_one_where_somebody_added_to_it() {
    let node = Node::new(&[("10-pods.conf", SINGLE)]);
    node.place.put_entry().unwrap();
    let mut list = node.json("10-pods.conflist");
    list["plugins"]
        .as_array_mut()
        .unwrap()
        .insert(1, json!({ "type": "tuning" }));
    fs::write(node.file("10-pods.conflist"), list.to_string()).unwrap();
    node.place.remove().unwrap();
    assert_eq!(node.plugins("10-pods.conflist"), ["bridge", "tuning"]);
}

#[test]
fn a_network_that_cannot_be_chained_is_left_and_so_are_those_after_it() {
    let old = r#"{"cniVersion":"0.2.0","name":"pods","type":"bridge"}"#;
    let node = Node::new(&[("10-pods.conf", old), ("20-other.conflist", LIST)]);
    let said = node.place.put_entry().unwrap_err().to_string();
    assert!(
        said.contains("10-pods.conf") && said.contains("0.2.0"),
        "{said}"
    );
    assert_eq!(node.text("10-pods.conf"), old);
    assert_eq!(node.text("20-other.conflist"), LIST);
}

#[test]
fn what_is_no_network_is_passed_over_and_a_node_without_one_is_named() {
    let node = Node::new(&[("05-broken.conflist", "{"), ("10-pods.conflist", LIST)]);
    node.place.put_entry().unwrap();
    assert_eq!(node.text("05-broken.conflist"), "{");
    assert_eq!(node.plugins("10-pods.conflist").len(), 3);

    let empty = Node::new(&[]).place.put_entry().unwrap_err().to_string();
    assert!(
        empty.contains("none is installed on this node yet"),
        "{empty}"
    );
    let large = " ".repeat(MAX_BYTES as usize + 1);
    let large = Node::new(&[("10-pods.conflist", &large)]).place.put_entry();
    assert!(large.unwrap_err().to_string().contains("10-pods.conflist"));
}

#[tokio::test]
async fn the_plugin_is_put_back_when_the_network_is_written_again_and_stays_when_its_process_ends()
{
    let node = Node::new(&[]);
    let (end, ended) = oneshot::channel::<()>();
    let place = node.place.clone();
    let keeping =
        tokio::spawn(async move { place.keep(async { ended.await.unwrap_or_default() }).await });
    // A new node: the network comes after the plugin.
    fs::write(node.file("10-pods.conflist"), LIST).unwrap();
    node.until_installed().await;
    let program = fs::metadata(node.place.programs.join(PLUGIN)).unwrap();
    assert_eq!(program.permissions().mode() & 0o777, 0o755);
    // Its installer writes it again, or another one before it.
    fs::write(node.file("10-pods.conflist"), LIST).unwrap();
    node.until_installed().await;
    fs::write(node.file("05-pods.conf"), SINGLE).unwrap();
    node.until_installed().await;
    assert_eq!(node.plugins("05-pods.conflist"), ["bridge", PLUGIN]);

    end.send(()).unwrap();
    keeping.await.unwrap().unwrap();
    node.place.is_installed().unwrap();
    let no_more = node
        .names()
        .iter()
        .all(|name| !name.contains(".meshwright-cni-"));
    assert!(no_more, "{:?}", node.names());

    node.place.remove().unwrap();
    let said = node.place.is_installed().unwrap_err().to_string();
    assert!(said.contains("does not end with the plugin"), "{said}");
    // A pod that was made before is taken down with the list that it was made with.
    assert!(node.place.programs.join(PLUGIN).exists());
}
