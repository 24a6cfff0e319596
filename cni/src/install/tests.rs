use super::*;

use crate::network::MAX_BYTES;
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
fn a_node_without_a_network_is_named_and_what_a_runtime_does_not_take_for_one_is_passed_over() {
    let node = Node::new(&[("05-notes.txt", "{"), ("10-pods.conflist", LIST)]);
    fs::create_dir(node.file("05-folder.conf")).unwrap();
    node.place.put_entry().unwrap();
    assert_eq!(node.plugins("10-pods.conflist").len(), 3);

    let empty = Node::new(&[]).place.put_entry().unwrap_err().to_string();
    assert!(
        empty.contains("none is installed on this node yet"),
        "{empty}"
    );
}

#[test]
fn a_first_network_that_cannot_be_read_is_told_and_no_other_is_taken_for_it() {
    let large = " ".repeat(MAX_BYTES as usize + 1);
    let elsewhere = r#"{"cniVersion":"1.1.0","name":"pods"}"#;
    for (text, says) in [
        ("{", "it is no JSON"),
        (elsewhere, "files of their own"),
        (&large, "too large"),
    ] {
        let node = Node::new(&[("05-first.conflist", text), ("10-pods.conflist", LIST)]);
        for said in [
            node.place.put_entry().unwrap_err().to_string(),
            node.place
                .put_program(&mut None)
                .map(|_| String::new())
                .unwrap()
                + &node.place.is_installed().unwrap_err().to_string(),
        ] {
            assert!(
                said.contains("05-first.conflist") && said.contains(says),
                "{said}"
            );
        }
        assert_eq!(node.text("10-pods.conflist"), LIST);
    }
    // Of a file of the node that is nowhere in this process's container, or another there.
    for leads_to in ["/nowhere/pods.conflist", "10-pods.conflist"] {
        let node = Node::new(&[("10-pods.conflist", LIST)]);
        std::os::unix::fs::symlink(leads_to, node.file("05-first.conflist")).unwrap();
        let said = node.place.put_entry().unwrap_err().to_string();
        let says = "05-first.conflist is a symbolic link";
        assert!(said.contains(says), "{said}");
        assert_eq!(node.text("10-pods.conflist"), LIST);
        node.place.remove().unwrap();
    }
}

#[test]
fn a_list_that_another_made_is_not_replaced_by_that_of_a_single_plugin() {
    let node = Node::new(&[("10-pods.conf", SINGLE), ("10-pods.conflist", LIST)]);
    let said = node.place.put_entry().unwrap_err().to_string();
    assert!(
        said.contains("10-pods.conflist, which is there already"),
        "{said}"
    );
    node.place.remove().unwrap();
    assert_eq!(node.text("10-pods.conf"), SINGLE);
    assert_eq!(node.text("10-pods.conflist"), LIST);
}

#[test]
fn a_single_plugin_that_is_written_again_becomes_the_list_again() {
    let node = Node::new(&[("10-pods.conf", SINGLE)]);
    node.place.put_entry().unwrap();
    let newer = SINGLE.replace("0.3.1", "1.0.0");
    fs::write(node.file("10-pods.conf"), &newer).unwrap();
    assert_eq!(
        node.place.put_entry().unwrap(),
        Some(node.file("10-pods.conflist"))
    );
    assert_eq!(node.json("10-pods.conflist")["cniVersion"], "1.0.0");
    assert!(!node.names().contains(&"10-pods.conf".into()));
    // And where it is written again as the last thing before the plugin goes, it is what stays.
    fs::write(node.file("10-pods.conf"), &newer).unwrap();
    node.place.remove().unwrap();
    assert_eq!(node.names(), ["10-pods.conf"]);
    assert_eq!(node.text("10-pods.conf"), newer);
}

/// What a network is to become, while its owner writes it too.
struct Meanwhile<'a> {
    new: &'a [u8],
    path: PathBuf,
}

impl io::Read for Meanwhile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        fs::write(&self.path, "newer")?;
        self.new.read(buffer)
    }
}

#[test]
fn what_its_owner_writes_while_a_network_is_edited_is_kept() {
    let node = Node::new(&[("10-pods.conflist", LIST)]);
    let path = node.file("10-pods.conflist");
    let mut edited = Meanwhile {
        new: b"edited",
        path: path.clone(),
    };
    let done = replace(&path, &mut edited, 0o600, Some(LIST));
    assert!(matches!(done, Err(Error::Changed(_))), "{done:?}");
    assert_eq!(node.text("10-pods.conflist"), "newer");
    assert_eq!(node.names(), ["10-pods.conflist"]);
}

#[test]
fn an_owner_that_takes_the_plugin_out_each_time_is_not_answered_each_time() {
    let node = Node::new(&[("10-pods.conflist", LIST)]);
    let (mut program, mut pace) = (None, Pace::default());
    let mut now = Instant::now();
    let mut look = |now| {
        node.place.look(&mut program, &mut pace, now).unwrap();
        let is_in = node.plugins("10-pods.conflist").len() == 3;
        fs::write(node.file("10-pods.conflist"), LIST).unwrap();
        is_in
    };
    let at_once = (0..100).filter(|_| look(now)).count();
    assert_eq!(at_once, 4);
    now += Duration::from_secs(2);
    assert!(look(now) && !look(now));
}

#[tokio::test]
async fn a_program_that_is_gone_or_another_is_put_back() {
    let node = Node::new(&[("10-pods.conflist", LIST)]);
    let place = node.place.clone();
    let keeping = tokio::spawn(async move { place.keep(std::future::pending()).await });
    node.until_installed().await;
    let program = node.place.programs.join(PLUGIN);
    let own = fs::metadata(std::env::current_exe().unwrap())
        .unwrap()
        .len();
    fs::remove_file(&program).unwrap();
    node.until_installed().await;
    fs::write(&program, "another").unwrap();
    let put_back = async {
        while fs::metadata(&program).map(|there| there.len()).ok() != Some(own) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, put_back).await.unwrap();
    keeping.abort();
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
