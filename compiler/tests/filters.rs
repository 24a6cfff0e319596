//! What is refused of a rule's filters, and with which words: in a folder as in a cluster.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use compiler::yaml::parse;

/// What is wrong with an ApiRoute of one rule, without file and line.
fn problems(rule: &str) -> Vec<String> {
    let text = format!(
        "apiVersion: meshwright.dev/v1alpha1\nkind: ApiRoute\nmetadata: {{name: orders}}\n\
         spec: {{hosts: [orders], rules: [{rule}]}}\n"
    );
    let problems = parse("shop.yaml", &text).problems;
    let problems = problems
        .iter()
        .map(|p| format!("{}: {}", p.field, p.message));
    problems.collect()
}

#[track_caller]
fn refuses(rule: &str, expected: &[&str]) {
    let expected: Vec<String> = expected
        .iter()
        .map(|expected| format!("spec.rules[0]{expected}"))
        .collect();
    assert_eq!(problems(rule), expected, "{rule}");
}

#[track_caller]
fn accepts(rule: &str) {
    refuses(rule, &[]);
}

#[test]
fn headers_that_frame_a_message_or_say_who_calls_are_not_edited() {
    let refused = "this header frames the message, names the host (rewrite.host does that) or \
                   says who calls: it is not a route's to edit";
    for name in [
        "Connection",
        "Keep-Alive",
        "Proxy-Connection",
        "Proxy-Authenticate",
        "Proxy-Authorization",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
        "HTTP2-Settings",
        "Content-Length",
        "Expect",
        "Host",
        "X-Forwarded-Client-Cert",
        "Client-Cert",
        "Client-Cert-Chain",
        "X-Client-Cert",
        "X-Client-Cert-Verified",
        "X-Forwarded-Tls-Client-Cert-Info",
        "Ssl-Client-Verify",
        "X-SSL-Client-CN",
        "X-Amzn-Mtls-Clientcert",
        "X-ARR-ClientCert",
        "l5d-client-id",
        "Meshwright-Reason",
        "meshwright-",
    ] {
        for field in ["requestHeaders", "responseHeaders"] {
            refuses(
                &format!(
                    "{{{field}: {{set: [{{name: {name}, value: a}}], add: [{{name: {name}, value: \
                     a}}], remove: [X, {name}]}}}}"
                ),
                &[
                    &format!(".{field}.add[0].name: {refused}"),
                    &format!(".{field}.remove: {refused}"),
                    &format!(".{field}.set[0].name: {refused}"),
                ],
            );
        }
    }
    accepts(
        "{requestHeaders: {set: [{name: X-Forwarded-Host, value: a}], remove: [Authorization, \
         meshwright]}}",
    );
}

#[test]
fn a_header_is_a_name_and_a_value_that_fit_on_one_line() {
    let named = "doesn't have the form ^[A-Za-z0-9!#$%&'*+\\-.^_`|~]+$";
    refuses(
        "{requestHeaders: {set: [{name: \":path\", value: /}], remove: [\"x y\"]}}",
        &[
            &format!(".requestHeaders.remove[0]: \"x y\" {named}"),
            &format!(
                ".requestHeaders.set[0].name: \":path\" {named} (The header's name; upper and \
                 lower case are the same)"
            ),
        ],
    );
    for (value, shown) in [
        ("\"a\\r\\nx-evil: 1\"", "\"a\\r\\nx-evil: 1\""),
        ("\"a\\tb\"", "\"a\\tb\""),
        ("ü", "\"ü\""),
        ("\" a\"", "\" a\""),
    ] {
        refuses(
            &format!("{{responseHeaders: {{add: [{{name: x, value: {value}}}]}}}}"),
            &[&format!(
                ".responseHeaders.add[0].value: {shown} doesn't have the form \
                 ^[!-~]([ -~]*[!-~])?$ (The value: visible characters of ASCII, and spaces \
                 between them)"
            )],
        );
    }
    refuses(
        "{requestHeaders: {set: [{name: x, value: a}, {name: X, value: b}], add: [{name: x, \
         value: a}, {name: X, value: b}]}}",
        &[".requestHeaders.set: a header is named twice"],
    );
    let many = vec!["x"; 17].join(", ");
    refuses(
        &format!("{{requestHeaders: {{remove: [{many}]}}}}"),
        &[".requestHeaders.remove: has 17 items; at most 16 are possible"],
    );
}

#[test]
fn a_prefix_is_replaced_only_where_every_match_has_one() {
    let refused = ": rewrite.path: ReplacePrefix needs a path of type Prefix in each of the rule's \
                   matches";
    let rewrite = "rewrite: {path: {type: ReplacePrefix, value: /x}}";
    for matches in [
        "",
        "matches: [], ",
        "matches: [{method: GET}], ",
        "matches: [{path: {type: Exact, value: /a}}], ",
        "matches: [{path: {type: Prefix, value: /a}}, {path: {type: Exact, value: /a}}], ",
    ] {
        refuses(&format!("{{{matches}{rewrite}}}"), &[refused]);
        accepts(&format!(
            "{{{matches}rewrite: {{path: {{type: ReplaceFull, value: /x}}}}}}"
        ));
    }
    let prefixes =
        "[{path: {type: Prefix, value: /a}}, {path: {type: Prefix, value: /b}, method: GET}]";
    accepts(&format!("{{matches: {prefixes}, {rewrite}}}"));
}

#[test]
fn a_rewrite_changes_something_into_a_host_or_path() {
    refuses("{rewrite: {}}", &[".rewrite: write host, path or both"]);
    refuses(
        "{rewrite: {host: \"orders:80\"}}",
        &[".rewrite.host: \"orders:80\" doesn't have the form \
             ^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$ (The host that the \
             application is told (`Host`, `:authority`), without a port; that of the request when \
             absent)"],
    );
    let path =
        |value: &str| format!("{{rewrite: {{path: {{type: ReplaceFull, value: {value}}}}}}}");
    refuses(
        &path("/a//b"),
        &[".rewrite.path.value: a path can't contain //"],
    );
    refuses(
        &path("/a/%2E./b"),
        &[".rewrite.path.value: a path can't have a segment that is . or .."],
    );
    for value in ["a", "/a?b=c", "\"/a b\""] {
        let [problem] = &problems(&path(value))[..] else {
            panic!("{value}");
        };
        assert!(problem.contains("doesn't have the form"), "{problem}");
    }
    refuses(
        "{rewrite: {path: {type: Prefix, value: /a}}}",
        &[".rewrite.path.type: \"Prefix\" is not one of ReplaceFull, ReplacePrefix"],
    );
}

#[test]
fn a_body_has_at_most_a_tebibyte() {
    accepts("{maxRequestBytes: 0}");
    accepts("{maxRequestBytes: 1099511627776}");
    for bytes in ["-1", "1099511627777"] {
        refuses(
            &format!("{{maxRequestBytes: {bytes}}}"),
            &[&format!(
                ".maxRequestBytes: must be 0 to 1099511627776, not {bytes}"
            )],
        );
    }
}

#[test]
fn the_least_response_that_is_compressed_has_at_most_a_mebibyte() {
    accepts("{compression: {}}");
    accepts("{compression: {minBytes: 0}}");
    accepts("{compression: {minBytes: 1048576}}");
    for bytes in ["-1", "1048577"] {
        refuses(
            &format!("{{compression: {{minBytes: {bytes}}}}}"),
            &[&format!(
                ".compression.minBytes: must be 0 to 1048576, not {bytes}"
            )],
        );
    }
}

#[test]
fn a_limit_of_concurrency_is_at_least_one_and_only_a_queue_has_a_timeout() {
    accepts("{concurrency: {max: 1}}");
    accepts("{concurrency: {max: 65536, queue: 65536, queueTimeout: 5m}}");
    accepts("{concurrency: {max: 1, queue: 1, queueTimeout: 1ms}}");
    for (written, refused) in [
        ("max: 0", ".max: must be 1 to 65536, not 0"),
        ("max: 65537", ".max: must be 1 to 65536, not 65537"),
        (
            "max: 1, queue: 65537",
            ".queue: must be 0 to 65536, not 65537",
        ),
        (
            "max: 1, queue: 1, queueTimeout: 0s",
            ".queueTimeout: a request waits longer than 0s and not longer than 5m",
        ),
        (
            "max: 1, queue: 1, queueTimeout: 5m1ms",
            ".queueTimeout: a request waits longer than 0s and not longer than 5m",
        ),
        (
            "max: 1, queueTimeout: 1s",
            ": queueTimeout is how long a request waits, and none does without queue",
        ),
    ] {
        refuses(
            &format!("{{concurrency: {{{written}}}}}"),
            &[&format!(".concurrency{refused}")],
        );
    }
}

#[test]
fn a_silence_lasts_from_a_second_to_an_hour() {
    accepts("{timeouts: {idle: 1s}}");
    accepts("{timeouts: {idle: 60m}}");
    for idle in ["0s", "999ms", "1h1ms", "24h"] {
        refuses(
            &format!("{{timeouts: {{idle: {idle}}}}}"),
            &[".timeouts.idle: a silence lasts from 1s to 1h"],
        );
    }
}

#[test]
fn a_fault_is_a_bounded_delay_or_an_error_for_a_share_of_the_requests() {
    accepts("{fault: {delay: {duration: 5m, percent: 1}, abort: {status: 599, percent: 100}}}");
    refuses("{fault: {}}", &[".fault: write delay, abort or both"]);
    for duration in ["0s", "0ms", "5m1ms", "99999h"] {
        refuses(
            &format!("{{fault: {{delay: {{duration: {duration}}}}}}}"),
            &[".fault.delay.duration: a delay is longer than 0s and not longer than 5m"],
        );
    }
    refuses(
        "{fault: {delay: {duration: soon}}}",
        &[
            ".fault.delay.duration: \"soon\" is not a duration: write numbers with a unit of h, m, \
             s or ms, such as 250ms or 1m30s",
        ],
    );
    refuses(
        "{fault: {delay: {duration: 1s, percent: 0}, abort: {status: 200, percent: 101}}}",
        &[
            ".fault.abort.percent: must be 1 to 100, not 101",
            ".fault.abort.status: must be 400 to 599, not 200",
            ".fault.delay.percent: must be 1 to 100, not 0",
        ],
    );
    refuses(
        "{fault: {abort: {percent: 1.5, status: 500}}}",
        &[".fault.abort.percent: must be a whole number, not 1.5"],
    );
}

#[test]
fn a_mirror_is_a_port_of_a_service_and_a_percentage() {
    accepts("{mirror: {backendRef: {name: a, namespace: b, port: 80}, percent: 1}}");
    refuses(
        "{mirror: {percent: 50}}",
        &[".mirror.backendRef: is missing: Where the copies go"],
    );
    refuses(
        "{mirror: {backendRef: {name: a, port: 80, weight: 1}, percent: 0}}",
        &[
            ".mirror.backendRef.weight: unknown field; the fields here are name, namespace, port",
            ".mirror.percent: must be 1 to 100, not 0",
        ],
    );
}

#[test]
fn a_rule_that_answers_itself_has_nothing_to_say_of_what_is_sent_on() {
    let redirect = "redirect: {scheme: https}";
    let direct = "directResponse: {status: 503}";
    for one in [redirect, direct] {
        accepts(&format!(
            "{{{one}, fault: {{abort: {{status: 500, percent: 1}}}}}}"
        ));
        for other in [
            "backendRefs: [{name: a, port: 80}]",
            "rewrite: {host: a}",
            "mirror: {backendRef: {name: a, port: 80}}",
            "requestHeaders: {remove: [x]}",
            "responseHeaders: {remove: [x]}",
            "maxRequestBytes: 1",
            "compression: {}",
            "concurrency: {max: 1}",
        ] {
            refuses(
                &format!("{{{one}, {other}}}"),
                &[
                    ": a rule with redirect or directResponse sends nothing on: it has no \
                   backendRefs, rewrite, mirror, requestHeaders, responseHeaders, \
                   maxRequestBytes, compression or concurrency",
                ],
            );
        }
    }
    refuses(
        &format!("{{{redirect}, {direct}}}"),
        &[": a rule has redirect or directResponse, not both"],
    );
}

#[test]
fn a_redirect_leads_somewhere_else_with_a_status_that_says_so() {
    refuses(
        "{redirect: {statusCode: 301}}",
        &[".redirect: write scheme, host, port or path: a redirect to the same place never ends"],
    );
    refuses(
        "{redirect: {scheme: HTTPS, statusCode: 304, port: 0}}",
        &[
            ".redirect.port: must be 1 to 65535, not 0",
            ".redirect.scheme: \"HTTPS\" is not one of http, https; did you mean https?",
            ".redirect.statusCode: a redirect has status 301, 302, 303, 307 or 308",
        ],
    );
    refuses(
        "{redirect: {path: {type: ReplacePrefix, value: /x}}}",
        &[
            ": redirect.path: ReplacePrefix needs a path of type Prefix in each of the rule's \
             matches",
        ],
    );
    for status in [301, 302, 303, 307, 308] {
        accepts(&format!("{{redirect: {{host: a, statusCode: {status}}}}}"));
    }
}

#[test]
fn a_direct_response_has_a_body_only_where_its_status_has_one() {
    for status in [204, 205, 304] {
        accepts(&format!("{{directResponse: {{status: {status}}}}}"));
        refuses(
            &format!("{{directResponse: {{status: {status}, body: a}}}}"),
            &[".directResponse: an answer of status 204, 205 or 304 has no body"],
        );
    }
    refuses(
        "{directResponse: {status: 200, contentType: text/html}}",
        &[".directResponse: contentType says what body is, and there is none"],
    );
    refuses(
        "{directResponse: {status: 199}}",
        &[".directResponse.status: must be 200 to 599, not 199"],
    );
    let long = "x".repeat(4097);
    refuses(
        &format!("{{directResponse: {{status: 200, body: {long}}}}}"),
        &[".directResponse.body: has 4097 characters; at most 4096 are possible"],
    );
    for content_type in ["text", "text/", "\"text/html\\r\\nx: y\""] {
        let rule =
            format!("{{directResponse: {{status: 200, body: a, contentType: {content_type}}}}}");
        let [problem] = &problems(&rule)[..] else {
            panic!("{rule}");
        };
        assert!(problem.contains("contentType: "), "{problem}");
    }
}

#[test]
fn an_origin_is_written_as_browsers_send_it() {
    let cors = |origin: &str| format!("{{cors: {{allowOrigins: [\"{origin}\"]}}}}");
    for origin in [
        "*",
        "https://example.com",
        "https://*.example.com",
        "http://localhost:3000",
        "capacitor://localhost",
        "http://10.0.0.1:8080",
    ] {
        accepts(&cors(origin));
    }
    for origin in [
        "",
        "example.com",
        "https://example.com/",
        "https://Example.com",
        "https://*",
        "https://a.*.example.com",
        "https://*example.com",
        "https://example.com:https",
        "null",
    ] {
        let [problem] = &problems(&cors(origin))[..] else {
            panic!("{origin}");
        };
        let place = "spec.rules[0].cors.allowOrigins[0]: ";
        assert!(problem.starts_with(place), "{problem}");
    }
    for origin in ["http://example.com:80", "https://*.example.com:443"] {
        refuses(
            &cors(origin),
            &[
                ".cors.allowOrigins: browsers leave out the port that the scheme implies: so must \
               an origin here",
            ],
        );
    }
    accepts(&cors("https://example.com:80"));
    refuses(
        "{cors: {allowOrigins: []}}",
        &[".cors.allowOrigins: has 0 items; at least 1 must be there"],
    );
}

#[test]
fn what_is_for_everybody_is_not_with_credentials() {
    let cors = |more: &str| format!("{{cors: {{allowCredentials: true, {more}}}}}");
    let refused = ".cors: with allowCredentials browsers don't take * for everything: list what is \
                   allowed";
    for more in [
        "allowOrigins: [\"*\"]",
        "allowOrigins: [\"https://a\", \"*\"]",
        "allowOrigins: [\"https://a\"], allowHeaders: [\"*\"]",
        "allowOrigins: [\"https://a\"], exposeHeaders: [x, \"*\"]",
    ] {
        refuses(&cors(more), &[refused]);
        accepts(&cors(more).replace("true", "false"));
    }
    accepts(&cors("allowOrigins: [\"https://*.a\"], allowHeaders: [x]"));
    refuses(
        "{cors: {allowOrigins: [\"*\"], maxAge: 25h}}",
        &[".cors.maxAge: no browser remembers a preflight longer than 24h"],
    );
    refuses(
        "{cors: {allowOrigins: [\"*\"], allowMethods: [\"*\"]}}",
        &[
            ".cors.allowMethods[0]: \"*\" is not one of GET, HEAD, POST, PUT, DELETE, OPTIONS, \
           TRACE, PATCH",
        ],
    );
}
