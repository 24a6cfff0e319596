//! A server that speaks first, as those of mail do.

use tests::foreign::Pair;

#[track_caller]
fn is_delivered(declared: Option<&'static str>) {
    let server = "exec python3 $PROGRAMS/python/mail.py";
    Pair::new(2525, declared, server)
        .is_the_same(&[("a letter", "python3 $PROGRAMS/python/letter.py")]);
}

#[test]
fn mail_notices_no_mesh() {
    is_delivered(Some("smtp"));
}

#[test]
fn mail_to_an_undeclared_port_notices_no_mesh() {
    is_delivered(None);
}
