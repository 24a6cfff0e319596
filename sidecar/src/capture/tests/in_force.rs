//! What a sidecar sees of the redirect.

use super::*;
use crate::capture::in_force::{CapturedBy, NotCaptured, verify};
use crate::net::connect::Connector;

#[test]
fn a_sidecar_sees_that_its_pod_is_captured() {
    in_a_namespace("in_force::captured");
}

#[test]
fn a_sidecar_sees_that_its_pod_is_not_captured_and_says_what_to_do() {
    in_a_namespace("in_force::not_captured");
}

#[test]
fn whoever_answers_in_the_pod_is_not_taken_for_the_redirect() {
    in_a_namespace("in_force::answered_by_another");
}

fn sidecar() -> Connector {
    Connector {
        mark: Some(MARK),
        ..Connector::default()
    }
}

#[tokio::test]
#[ignore = "needs a namespace: run by its caller above"]
async fn captured() {
    drop(ipv6::pod6());
    assert!(!is_installed().unwrap());
    redirect(&Rules::new(Escape::Mark(MARK))).unwrap();
    assert!(is_installed().unwrap());
    verify(CapturedBy::Cni, 15006, &sidecar()).await.unwrap();

    // An earlier life of the sidecar's was called when it ended.
    let workers = crate::net::accept::listen("[::]:15006".parse().unwrap()).unwrap();
    drop(workers);
    verify(CapturedBy::Init, 15006, &sidecar()).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a namespace: run by its caller above"]
async fn not_captured() {
    drop(pod());
    for (by, remedy) in [
        (
            CapturedBy::Cni,
            "see that the DaemonSet meshwright-cni is ready",
        ),
        (
            CapturedBy::Init,
            "what the init container meshwright-redirect installed is gone",
        ),
    ] {
        let error = verify(by, 15006, &sidecar()).await.unwrap_err();
        assert!(matches!(error, NotCaptured::Not { .. }), "{error}");
        let said = error.to_string();
        assert!(
            said.contains(remedy) && said.contains("must not become ready"),
            "{said}"
        );
    }
    // Rules that let another than this sidecar pass.
    redirect(&Rules::new(Escape::Uid(NOT_OWN_UID))).unwrap();
    verify(CapturedBy::Cni, 15006, &sidecar())
        .await
        .unwrap_err();
}

#[tokio::test]
#[ignore = "needs a namespace: run by its caller above"]
async fn answered_by_another() {
    drop(pod());
    // Rules of somebody else's, that lead to somebody else.
    redirect(&Rules {
        inbound: 15007,
        ..Rules::new(Escape::Mark(MARK))
    })
    .unwrap();
    let _elsewhere = TcpListener::bind("0.0.0.0:15007").unwrap();
    let error = verify(CapturedBy::Cni, 15006, &sidecar())
        .await
        .unwrap_err();
    let said = error.to_string();
    assert!(said.contains("answered, but not by the sidecar"), "{said}");
}
