//! Rules about connections whose bytes nobody reads: which one governs is known from the name that a
//! TLS client asks for, if it does.

use std::sync::Arc;
use std::time::Duration;

use wire::mesh;

use super::Backend;

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
        let fits = self.server_names.iter().filter_map(|name| {
            if name == asked {
                return Some(usize::MAX);
            }
            // `*` is one label (RFC 9525 section 6.3).
            let (label, rest) = asked.split_once('.')?;
            let parent = name.strip_prefix("*.")?;
            (!label.is_empty() && rest == parent).then_some(name.len())
        });
        fits.max()
    }
}

/// The rule that governs a connection, by its place; of equals the first.
pub fn find(rules: &[ConnectionRule], server_name: Option<&str>) -> Option<usize> {
    let fits = rules.iter().enumerate();
    let fits = fits.filter_map(|(place, rule)| Some((rule.fits(server_name)?, place)));
    let best = fits.max_by_key(|(fit, place)| (*fit, usize::MAX - *place));
    best.map(|(_, place)| place)
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
}
