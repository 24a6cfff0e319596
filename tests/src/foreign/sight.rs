//! What a client or a server saw, and what of it may differ.

/// Beginnings of header lines that may differ, and why.
const EXPLAINED: &[(&str, &str)] = &[
    ("date: ", "a server says when it answers"),
    (
        "connection: ",
        "of one hop (RFC 9110 section 7.6.1): every hop has its own",
    ),
    ("keep-alive: ", "of one hop, as above"),
    (
        "transfer-encoding: ",
        "of one hop: a body without length may end in another way on another",
    ),
    (
        "upgrade: h2c",
        "of one hop, and an offer only, which this one does not take up",
    ),
    ("http2-settings: ", "a part of that offer"),
    (
        "traceparent: ",
        "begun where a caller has none, so that one id joins the hops of a call",
    ),
    ("x-request-id: ", "given where a caller gives none"),
    (
        "unasked-trailer-",
        "of HTTP/1.1, trailers are for whoever asks for them (RFC 9110 section 6.5.1)",
    ),
];

/// Statuses of answers before the answer that may differ: sidecars ask for bodies themselves, as soon
/// as they have room for them, and do not carry hints.
const INFORMATIONAL: &[&str] = &["100", "103"];

/// What is left when everything that may differ is left out. Header lines that follow each other
/// come in any order and with names of any case (RFC 9110 sections 5.1 and 5.3): here they are
/// sorted and in lower case.
pub(super) fn normalised(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut headers: Vec<String> = Vec::new();
    let mut informational = false;
    for line in text.lines() {
        let line = line.trim_end_matches('\r');
        if let Some(status) = status(line) {
            informational = INFORMATIONAL.contains(&status);
        }
        if informational {
            informational = !line.is_empty();
            continue;
        }
        if let Some((name, value)) = header(line) {
            let line = format!("{}: {value}", name.to_ascii_lowercase());
            if !EXPLAINED.iter().any(|(start, _)| line.starts_with(start)) {
                headers.push(line);
            }
            continue;
        }
        headers.sort();
        lines.append(&mut headers);
        // Words after a status are for people, and HTTP/2 has none (RFC 9113 section 8.3.2).
        let words = status(line).and_then(|_| line.match_indices(' ').nth(1));
        lines.push(line[..words.map_or(line.len(), |(at, _)| at)].to_owned());
    }
    headers.sort();
    lines.append(&mut headers);
    lines.join("\n")
}

/// The status of a status line.
fn status(line: &str) -> Option<&str> {
    line.strip_prefix("HTTP/")?.split(' ').nth(1)
}

fn header(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(": ")?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_ ".contains(&byte);
    (!name.is_empty() && name.bytes().all(is_name)).then_some((name, value))
}

/// Lines of one that are not in the other, for people.
pub(super) fn difference(without: &str, meshed: &str) -> String {
    let only = |sign: char, ours: &str, theirs: &str| {
        let theirs: Vec<&str> = theirs.lines().collect();
        let lines = ours.lines().filter(|line| !theirs.contains(line));
        lines
            .map(|line| format!("{sign} {line}\n"))
            .collect::<String>()
    };
    let lines = only('-', without, meshed) + &only('+', meshed, without);
    match lines.is_empty() {
        true => format!("the same lines in another order:\n{without}\n=>\n{meshed}\n"),
        false => lines,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_case_and_order_of_headers_and_what_is_explained_may_differ() {
        let text = "HTTP/1.1 200 OK\r\nDate: now\r\nB: 1\r\na: 2\r\n\r\nA: body\nb";
        let same = "HTTP/1.1 100 C\n\nHTTP/1.1 200\na: 2\nb: 1\ndate: later\n\na: body\nb\n";
        assert_eq!(normalised(text), normalised(same));
        for other in ["b: 2", "c: 1", "", "b: 1\nb: 1", "HTTP/1.1 200 OK\n\nb: 1"] {
            assert_ne!(normalised("b: 1"), normalised(other));
        }
        assert_eq!(difference("a\nb", "a\nc"), "- b\n+ c\n");
    }
}
