//! The two formats that scrapers read, and which one a scraper wants.
//!
//! `prometheus-client` writes OpenMetrics 1.0. The classic text format (0.0.4) differs in little:
//! a counter's family is named as its samples are, there are neither units nor an end.

use http::header::{ACCEPT, HeaderMap};

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus, text format 0.0.4: for whoever asks for nothing else.
    Classic,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

// === impl Format ===

impl Format {
    /// The one that `Accept` prefers (RFC 9110 section 12.5.1).
    pub fn wanted(headers: &HeaderMap) -> Self {
        let (mut open, mut classic) = (0, 0);
        let values = headers.get_all(ACCEPT).iter();
        let ranges = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        for range in ranges {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut version) = (1000, "");
            for parameter in parts {
                match parameter.split_once('=') {
                    Some(("q", q)) => quality = thousandths(q),
                    Some(("version", named)) => version = named.trim_matches('"'),
                    _ => {}
                }
            }
            match (&*kind, version) {
                ("application/openmetrics-text", "" | "1.0.0") => open = open.max(quality),
                ("text/plain", "" | "0.0.4") | ("text/*" | "*/*", "") => {
                    classic = classic.max(quality);
                }
                _ => {}
            }
        }
        match open > 0 && open >= classic {
            true => Self::OpenMetrics,
            false => Self::Classic,
        }
    }

    /// For `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// OpenMetrics, in this format.
    pub fn of(self, open_metrics: String) -> String {
        match self {
            Self::Classic => classic(&open_metrics),
            Self::OpenMetrics => open_metrics,
        }
    }
}

/// A quality, `0` to `1` with three digits; what is none is 0, so that it is not preferred.
fn thousandths(text: &str) -> u16 {
    let quality: f32 = text.parse().unwrap_or_default();
    // As casts do: what is no number is 0.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let thousandths = (quality.clamp(0.0, 1.0) * 1000.0) as u16;
    thousandths
}

fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 1024);
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(said) = line.strip_prefix("# HELP ") {
            // Which name it is said of depends on the type, which comes next.
            help = said.split_once(' ').map(|(_, said)| said);
        } else if let Some(described) = line.strip_prefix("# TYPE ") {
            let (family, kind) = described.split_once(' ').unwrap_or((described, ""));
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            if let Some(help) = help.take() {
                push(&mut text, &["# HELP ", family, suffix, " ", help]);
            }
            push(&mut text, &["# TYPE ", family, suffix, " ", kind]);
        } else if !line.starts_with('#') {
            push(&mut text, &[line]);
        }
    }
    text
}

fn push(text: &mut String, line: &[&str]) {
    text.extend(line.iter().copied());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn open_metrics_is_written_for_who_prefers_it() {
        let wanted = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            Format::wanted(&headers)
        };
        assert_eq!(Format::wanted(&HeaderMap::new()), Format::Classic);
        for open in [
            "application/openmetrics-text",
            // Prometheus 2 and 3.
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
        ] {
            assert_eq!(wanted(open), Format::OpenMetrics, "{open}");
        }
        for classic in [
            "*/*",
            "text/plain",
            "text/html, */*;q=0.1",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;version=1.0.0;q=0",
            "application/openmetrics-text;q=0.2, text/plain;version=0.0.4;q=0.5",
            "application/openmetrics-text;q=much",
            ",;=,;q",
        ] {
            assert_eq!(wanted(classic), Format::Classic, "{classic}");
        }
    }

    #[test]
    fn the_classic_format_names_a_counters_family_as_its_samples() {
        let open = "# HELP a Of a.\n# TYPE a counter\na_total{x=\"y\"} 1\n\
                    # HELP b_seconds Of b.\n# TYPE b_seconds gauge\n# UNIT b_seconds seconds\n\
                    b_seconds 2\n# EOF\n";
        assert_eq!(
            classic(open),
            "# HELP a_total Of a.\n# TYPE a_total counter\na_total{x=\"y\"} 1\n\
             # HELP b_seconds Of b.\n# TYPE b_seconds gauge\nb_seconds 2\n"
        );
    }
}
