use super::*;
use std::fs;
use tempfile::TempDir;

const ROUTE: &str = "
apiVersion: meshwright.dev/v1alpha1
kind: ApiRoute
metadata: { name: orders, namespace: shop }
spec: { hosts: [orders] }
";

const POLICY: &str = "
apiVersion: meshwright.dev/v1alpha1
kind: RetryPolicy
metadata: { name: orders, namespace: shop }
spec: { targetRefs: [{ kind: Service, name: orders }], loadBalancing: { type: RoundRobin } }
";

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: { name: orders, namespace: shop }
spec: { selector: { app: orders }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
";

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: { name: orders-1, namespace: shop, labels: { app: orders }, uid: u1 }
spec: { containers: [{ name: app }] }
status: { podIP: 10.0.0.1, conditions: [{ type: Ready, status: 'True' }] }
";

struct Folder {
    dir: TempDir,
    last: Reading,
}

impl Folder {
    fn new(files: &[(&str, &str)]) -> Folder {
        let folder = Folder {
            dir: tempfile::tempdir().unwrap(),
            last: Reading::default(),
        };
        for (name, text) in files {
            folder.write(name, text);
        }
        folder
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Reads as if all files were `age` seconds old.
    fn read_aged(&mut self, folders: &[&str], age: i128) -> &Reading {
        let folders: Vec<_> = folders.iter().map(|f| self.dir.path().join(f)).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        self.last = read_at(
            &folders,
            &self.last,
            now.as_micros() as i128 + age * 1_000_000,
        );
        &self.last
    }

    fn read(&mut self) -> &Reading {
        self.read_aged(&["."], 10)
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

#[test]
fn files_become_objects_with_their_origins() {
    let mut folder = Folder::new(&[
        ("a.yaml", &format!("{ROUTE}---{SERVICE}")),
        ("b/c.yml", POD),
    ]);
    let reading = folder.read();
    assert_eq!(*reading.problems, []);
    assert!(reading.inputs.api_routes.contains_key(&key("orders")));
    assert!(reading.inputs.services.contains_key(&key("orders")));
    assert!(reading.inputs.pods.contains_key(&key("orders-1")));
    let origin = &reading.origins[&ObjectRef::api_route(&key("orders"))];
    assert!(origin.file.ends_with("a.yaml"));
    assert_eq!(reading.changes.len(), 3, "{:?}", reading.changes);
}

#[test]
fn retry_policies_come_first_in_the_order_of_paths_and_a_rename_is_a_change_of_them_alone() {
    let policy = |name: &str| {
        POLICY.replace(
            "name: orders, namespace",
            &format!("name: {name}, namespace"),
        )
    };
    let mut folder = Folder::new(&[
        (
            "a.yaml",
            &format!("{ROUTE}---{SERVICE}---{}", policy("first")),
        ),
        ("b.yaml", &policy("second")),
    ]);
    let before = folder.read().clone();
    assert_eq!(*before.problems, []);
    let place = |reading: &Reading, name: &str| {
        let object = ObjectRef::retry_policy(&key(name));
        let origin = &reading.origins[&object];
        let file = origin.file.file_name().unwrap().to_owned();
        (
            reading.inputs.precedence[&object],
            file.into_string().unwrap(),
        )
    };
    assert_eq!(place(&before, "first"), (0, "a.yaml".to_owned()));
    assert_eq!(place(&before, "second"), (1, "b.yaml".to_owned()));
    let targets = &before.inputs.retry_policies[&key("first")].spec.target_refs;
    assert_eq!(targets[0].name, "orders");

    let path = |name: &str| folder.dir.path().join(name);
    fs::rename(path("b.yaml"), path("0.yaml")).unwrap();
    let after = folder.read().clone();
    assert_eq!(place(&after, "second"), (0, "0.yaml".to_owned()));
    assert_eq!(place(&after, "first"), (1, "a.yaml".to_owned()));
    let (old, new) = (before.inputs.seen, after.inputs.seen);
    assert!(old.at(Input::RetryPolicy) < new.at(Input::RetryPolicy));
    assert_eq!(old.at(Input::ApiRoute), new.at(Input::ApiRoute));
    assert!(Arc::ptr_eq(
        &before.inputs.retry_policies[&key("second")],
        &after.inputs.retry_policies[&key("second")]
    ));
}

#[test]
fn endpoint_slices_follow_from_services_and_pods() {
    let mut folder = Folder::new(&[("a.yaml", SERVICE), ("b.yaml", POD)]);
    let slices = &folder.read().inputs.endpoint_slices;
    assert_eq!(
        slices[&key("orders-0")].endpoints[0].addresses,
        ["10.0.0.1"]
    );
}

#[test]
fn what_did_not_change_keeps_its_arc_and_its_generation() {
    let mut folder = Folder::new(&[("a.yaml", ROUTE), ("b.yaml", SERVICE), ("c.yaml", POD)]);
    let before = folder.read().clone();
    folder.write("a.yaml", &ROUTE.replace("[orders]", "[orders.shop]"));
    let after = folder.read().clone();
    let (old, new) = (&before.inputs, &after.inputs);
    assert!(Arc::ptr_eq(
        &old.services[&key("orders")],
        &new.services[&key("orders")]
    ));
    assert!(Arc::ptr_eq(
        &old.endpoint_slices[&key("orders-0")],
        &new.endpoint_slices[&key("orders-0")]
    ));
    assert!(!Arc::ptr_eq(
        &old.api_routes[&key("orders")],
        &new.api_routes[&key("orders")]
    ));
    assert_eq!(old.seen.at(Input::Service), new.seen.at(Input::Service));
    assert!(old.seen.at(Input::ApiRoute) < new.seen.at(Input::ApiRoute));
    assert!(
        after.changes[0].contains("orders.shop"),
        "{:?}",
        after.changes
    );
}

#[test]
fn a_namespace_may_stand_in_several_files_if_they_say_the_same() {
    const NAMESPACE: &str = "\
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { meshwright.dev/mode: permissive } }
";
    let mut folder = Folder::new(&[("a.yaml", NAMESPACE), ("b.yaml", NAMESPACE)]);
    let reading = folder.read().clone();
    assert_eq!(*reading.problems, []);
    let shop = compiler::ObjectKey::namespace("shop");
    assert!(reading.inputs.namespaces.contains_key(&shop));
    folder.write("b.yaml", &NAMESPACE.replace("permissive", "strict"));
    let problem = folder.read().problems[0].to_string();
    assert!(
        problem.contains("Namespace shop is already in"),
        "{problem}"
    );
}

#[test]
fn a_file_that_does_not_parse_keeps_its_last_good_documents_and_is_reported() {
    let mut folder = Folder::new(&[("a.yaml", ROUTE)]);
    let before = folder.read().clone();
    folder.write(
        "a.yaml",
        "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\nmetadata: { na",
    );
    let after = folder.read().clone();
    assert_eq!(before.inputs.seen, after.inputs.seen);
    assert!(Arc::ptr_eq(
        &before.inputs.api_routes[&key("orders")],
        &after.inputs.api_routes[&key("orders")]
    ));
    assert_eq!(after.problems.len(), 1, "{:?}", after.problems);
    assert!(after.problems[0].file.ends_with("a.yaml"));
    assert!(after.problems[0].line.is_some());
    folder.write("a.yaml", ROUTE);
    assert_eq!(*folder.read().problems, []);
}

#[test]
fn a_file_that_just_lost_documents_is_not_believed_until_it_is_a_second_old() {
    let mut folder = Folder::new(&[("a.yaml", ROUTE)]);
    folder.read();
    folder.write("a.yaml", "");
    let reading = folder.read_aged(&["."], 0);
    assert!(reading.unsettled);
    assert_eq!(reading.inputs.api_routes.len(), 1);
    let reading = folder.read_aged(&["."], 2);
    assert!(!reading.unsettled);
    assert_eq!(reading.inputs.api_routes.len(), 0);
}

#[test]
fn a_file_that_another_took_the_place_of_is_believed_at_once() {
    let mut folder = Folder::new(&[("a.yaml", ROUTE)]);
    folder.read();
    folder.write(".new", "");
    let path = |name: &str| folder.dir.path().join(name);
    fs::rename(path(".new"), path("a.yaml")).unwrap();
    let reading = folder.read_aged(&["."], 0);
    assert!(!reading.unsettled);
    assert_eq!(reading.inputs.api_routes.len(), 0);
}

#[test]
fn a_rename_and_a_deletion_are_what_they_are() {
    let mut folder = Folder::new(&[("a.yaml", ROUTE)]);
    let before = folder.read().clone();
    fs::rename(
        folder.dir.path().join("a.yaml"),
        folder.dir.path().join("b.yaml"),
    )
    .unwrap();
    let after = folder.read().clone();
    assert!(Arc::ptr_eq(
        &before.inputs.api_routes[&key("orders")],
        &after.inputs.api_routes[&key("orders")]
    ));
    fs::remove_file(folder.dir.path().join("b.yaml")).unwrap();
    let reading = folder.read();
    assert!(reading.inputs.api_routes.is_empty());
    assert_eq!(reading.changes, ["ApiRoute shop/orders removed"]);
}

#[test]
fn a_service_in_a_later_folder_completes_the_earlier_one() {
    let mut folder = Folder::new(&[
        ("mine/a.yaml", SERVICE),
        (
            "run/a.yaml",
            &SERVICE
                .replace("ports:", "clusterIP: 10.96.0.7, ports:")
                .replace("80,", "81,"),
        ),
    ]);
    let reading = folder.read_aged(&["mine", "run"], 10);
    let spec = reading.inputs.services[&key("orders")]
        .spec
        .as_ref()
        .unwrap();
    assert_eq!(spec.cluster_ip.as_deref(), Some("10.96.0.7"));
    assert_eq!(
        spec.ports.as_ref().unwrap()[0].port,
        80,
        "the rest is the earlier one's"
    );
    assert_eq!(*reading.problems, []);
}

#[test]
fn an_object_that_is_there_twice_is_a_problem_and_the_first_holds() {
    let mut folder = Folder::new(&[
        ("a.yaml", ROUTE),
        ("b.yaml", &ROUTE.replace("[orders]", "[x]")),
    ]);
    let reading = folder.read();
    assert_eq!(
        reading.inputs.api_routes[&key("orders")].spec.hosts,
        ["orders"]
    );
    assert!(
        reading.problems[0].message.contains("already in"),
        "{:?}",
        reading.problems
    );
}

#[test]
fn a_folder_that_vanishes_keeps_what_was_in_it() {
    let mut folder = Folder::new(&[("mine/a.yaml", ROUTE)]);
    folder.read_aged(&["mine"], 10);
    fs::rename(
        folder.dir.path().join("mine"),
        folder.dir.path().join("away"),
    )
    .unwrap();
    let reading = folder.read_aged(&["mine"], 10);
    assert_eq!(reading.inputs.api_routes.len(), 1);
    assert_eq!(reading.problems.len(), 1);
}

#[test]
fn a_file_that_can_not_be_looked_at_keeps_its_last_good_documents() {
    let mut folder = Folder::new(&[("a.yaml", ROUTE)]);
    folder.read();
    let path = folder.dir.path().join("a.yaml");
    fs::remove_file(&path).unwrap();
    // As in a folder that may be listed and not entered, for root as well.
    std::os::unix::fs::symlink("a.yaml", path).unwrap();
    let reading = folder.read();
    assert_eq!(reading.inputs.api_routes.len(), 1);
    assert_eq!(reading.problems.len(), 1, "{:?}", reading.problems);
}

#[test]
fn a_file_too_large_to_read_keeps_its_last_good_documents() {
    let mut folder = Folder::new(&[("a.yaml", ROUTE)]);
    folder.read();
    folder.write("a.yaml", &"#".repeat(MAX_FILE_BYTES as usize + 1));
    let reading = folder.read();
    assert_eq!(reading.inputs.api_routes.len(), 1);
    assert!(reading.problems[0].message.contains("1 MiB"));
}
