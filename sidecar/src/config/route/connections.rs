//! Rules about connections whose bytes nobody reads: which one governs is known from the name that a
//! TLS client asks for, if it does.

use std::sync::Arc;
use std::time::Duration;

use wire::mesh;

use super::Backend;
use super::explain::{Asked, MatchExplained, RuleExplained};

/// What happens to connections that fit.
#[derive(Debug)]
pub struct ConnectionRule {
    /// Its name, for people.
    pub name: Arc<str>,
    /// Names that a client asks for, lower case; empty means every connection.
    server_names: Vec<String>,
    /// Where they go; empty means the Service and port called.
    pub backends: Vec<Backend>,
    /// How long no byte may move.
    pub idle_timeout: Option<Duration>,
}

// === build ===

impl ConnectionRule {
    /// Builds from what was sent.
    ///
    /// # Errors
    /// A sentence naming the field that cannot be used.
    pub fn build(sent: mesh::ConnectionRule) -> Result<Self, String> {
        let backends = sent.backends.into_iter().map(Backend::build);
        let idle_timeout = sent.idle_timeout_ms.map(Duration::from_millis);
        if idle_timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err("idle_timeout_ms: no connection is never silent".into());
        }
        Ok(Self {
            name: sent.name.into(),
            server_names: sent.server_names,
            backends: backends.collect::<Result<_, _>>()?,
            idle_timeout,
        })
    }
}

// === request ===

impl ConnectionRule {
    /// Whether the name that a client asks for must be known.
    pub fn is_named(&self) -> bool {
        !self.server_names.is_empty()
    }

    /// How well it fits: an exact name best, then the longest with `*`, then a rule without names.
    fn fits(&self, server_name: Option<&str>) -> Option<usize> {
        if self.server_names.is_empty() {
            return Some(0);
        }
        let asked = server_name?;
        let fits = self.server_names.iter();
        fits.filter_map(|name| name_fits(name, asked)).max()
    }
}

/// How well the name that a client asks for fits one that is written.
fn name_fits(written: &str, asked: &str) -> Option<usize> {
    if written == asked {
        return Some(usize::MAX);
    }
    // `*` is one label (RFC 9525 section 6.3).
    let (label, rest) = asked.split_once('.')?;
    let parent = written.strip_prefix("*.")?;
    (!label.is_empty() && rest == parent).then_some(written.len())
}

/// The rule that governs a connection, by its place; of equals the first.
pub fn find(rules: &[ConnectionRule], server_name: Option<&str>) -> Option<usize> {
    let fits = rules.iter().enumerate();
    let fits = fits.filter_map(|(place, rule)| Some((rule.fits(server_name)?, place)));
    let best = fits.max_by_key(|(fit, place)| (*fit, usize::MAX - *place));
    best.map(|(_, place)| place)
}

/// How a connection stands to each rule, in the order written, for people.
pub fn explain(rules: &[ConnectionRule], server_name: Option<&str>) -> Vec<RuleExplained> {
    let governs = find(rules, server_name);
    let rules = rules.iter().enumerate().map(|(place, rule)| {
        let matches = rule.server_names.iter().map(|name| {
            let fits = server_name.is_some_and(|asked| name_fits(name, asked).is_some());
            let what = format!("server name {name}");
            let asks = vec![Asked { what, holds: fits }];
            MatchExplained { fits, asks }
        });
        RuleExplained {
            rule: rule.name.to_string(),
            governs: governs == Some(place),
            matches: matches.collect(),
        }
    });
    rules.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(names: &[&[&str]]) -> Vec<ConnectionRule> {
        let rule = |names: &&[&str]| {
            let sent = mesh::ConnectionRule {
                server_names: names.iter().map(|name| (*name).to_owned()).collect(),
                ..Default::default()
            };
            ConnectionRule::build(sent).unwrap()
        };
        names.iter().map(rule).collect()
    }

    #[test]
    fn an_exact_name_comes_before_one_with_a_star_and_that_before_none() {
        let rules = rules(&[
            &[],
            &["*.example.com", "other.org"],
            &["db.example.com"],
            &["*.eu.example.com"],
            &["db.example.com"],
        ]);
        for (asked, expected) in [
            (Some("db.example.com"), 2),
            (Some("web.example.com"), 1),
            (Some("a.eu.example.com"), 3),
            (Some("other.org"), 1),
            // A star is one label, and not none.
            (Some("a.b.example.com"), 0),
            (Some("example.com"), 0),
            (Some(".example.com"), 0),
            (None, 0),
        ] {
            assert_eq!(find(&rules, asked), Some(expected), "{asked:?}");
        }
    }

    #[test]
    fn what_no_rule_fits_is_governed_by_none() {
        let rules = rules(&[&["db.example.com"]]);
        assert_eq!(find(&rules, Some("web.example.com")), None);
        assert_eq!(find(&rules, None), None);
    }

    #[test]
    fn it_is_told_of_each_name_whether_it_is_the_one_asked_for() {
        let rules = rules(&[&["a.org", "*.example.com"], &[]]);
        let told = |asked| {
            let told = explain(&rules, asked);
            let fits = told[0].matches.iter().map(|one| one.fits);
            (Vec::from_iter(fits), told[0].governs, told[1].governs)
        };
        let named = told(Some("db.example.com"));
        assert_eq!(named, (vec![false, true], true, false));
        assert_eq!(told(Some("b.org")), (vec![false, false], false, true));
        assert_eq!(told(None), (vec![false, false], false, true));
        let what = &explain(&rules, None)[0].matches[1].asks[0].what;
        assert_eq!(what, "server name *.example.com");
    }
}
