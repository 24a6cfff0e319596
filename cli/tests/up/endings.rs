//! How a mesh ends.

use nix::sys::signal::Signal;

use crate::mesh::until;
use crate::shop;

#[test]
fn ctrl_c_ends_all_and_leaves_nothing() {
    let folder = shop();
    let mut mesh = folder.up(&["--publish", "web=0"]);
    mesh.signal(Signal::SIGINT);
    assert_eq!(mesh.ends(), Some(0));
    assert_eq!(mesh.programs(), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(folder.state()).unwrap().count(), 0);
}

#[test]
fn killed_it_leaves_no_process() {
    let folder = shop();
    let mut mesh = folder.up(&[]);
    assert!(mesh.programs().len() > 5);
    mesh.signal(Signal::SIGKILL);
    assert_eq!(mesh.ends(), None);
    until("all have ended", || mesh.programs().is_empty());
}
