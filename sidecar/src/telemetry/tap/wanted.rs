//! Which requests a tap shows.

use std::ops::RangeInclusive;

use crate::config::route::query::parameters;
use crate::proxy::error::Reason;
use crate::telemetry::access_log::Line;
use crate::telemetry::access_log::selection::{Facts, Sample};
use crate::telemetry::metrics::Direction;

/// What a request must be to be shown: everything that is named here. Nothing named shows all.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    method: Option<String>,
    path: Option<String>,
    status: Option<RangeInclusive<u16>>,
    service: Option<String>,
    route: Option<String>,
    reason: Option<&'static str>,
    direction: Option<&'static str>,
    sample: Sample,
}

// === impl Wanted ===

impl Wanted {
    /// From a query: `method=GET&path=/orders&status=5xx&service=shop/orders&route=shop/orders`
    /// `&reason=no_endpoints&direction=inbound&sample=10`.
    ///
    /// # Errors
    /// A sentence that says what to write.
    pub fn read(query: &str) -> Result<Self, String> {
        let mut wanted = Self::default();
        for (name, value) in parameters(query.as_bytes()) {
            let value = String::from_utf8_lossy(&value).into_owned();
            match &*name {
                b"method" => wanted.method = Some(value),
                b"path" => wanted.path = Some(value),
                b"status" => wanted.status = Some(status(&value)?),
                b"service" => wanted.service = Some(named(value, "service")?),
                b"route" => wanted.route = Some(named(value, "route")?),
                b"reason" => wanted.reason = Some(reason(&value)?),
                b"direction" => wanted.direction = Some(direction(&value)?),
                b"sample" => wanted.sample = value.parse()?,
                _ => {
                    return Err(
                        "write method, path, status, service, route, reason, direction or sample"
                            .into(),
                    );
                }
            }
        }
        Ok(wanted)
    }

    /// Whether a request is shown.
    pub fn fits(&self, line: &Line<'_>, facts: Facts) -> bool {
        let same = |wanted: Option<&str>, is: &str| wanted.is_none_or(|wanted| wanted == is);
        let method = self.method.as_deref();
        method.is_none_or(|method| method.eq_ignore_ascii_case(line.method))
            && self
                .path
                .as_deref()
                .is_none_or(|path| line.path.starts_with(path))
            && self
                .status
                .as_ref()
                .is_none_or(|status| status.contains(&line.status))
            && same(self.service.as_deref(), line.service)
            && same(self.route.as_deref(), line.route)
            && same(self.reason, line.reason)
            && same(self.direction, line.direction)
            && self.sample.includes(facts.lot)
    }
}

/// `503`, or `5xx` for a class of them; 0 is that of a caller who went away before there was one.
fn status(text: &str) -> Result<RangeInclusive<u16>, String> {
    let wrong = || "a status is a number such as 503, or a class such as 5xx".to_owned();
    if let Some(class) = text.strip_suffix("xx").or(text.strip_suffix("XX")) {
        let class: u16 = class.parse().map_err(|_| wrong())?;
        return match class {
            1..=5 => Ok(class * 100..=class * 100 + 99),
            _ => Err(wrong()),
        };
    }
    match text.parse() {
        Ok(status @ (0 | 100..=599)) => Ok(status..=status),
        _ => Err(wrong()),
    }
}

fn named(value: String, what: &str) -> Result<String, String> {
    match value.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok(value),
        _ => Err(format!("a {what} is namespace/name, such as shop/orders")),
    }
}

fn reason(value: &str) -> Result<&'static str, String> {
    let mut names = Reason::ALL.iter().map(|reason| reason.name());
    names.find(|name| *name == value).ok_or_else(|| {
        let names: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        format!("a reason is one of {}", names.join(", "))
    })
}

fn direction(value: &str) -> Result<&'static str, String> {
    let mut names = [Direction::outbound, Direction::inbound].map(|one| one.name());
    let found = names.iter_mut().find(|name| **name == value);
    found
        .map(|name| *name)
        .ok_or_else(|| "a direction is outbound or inbound".into())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{facts, line};
    use super::*;

    #[test]
    fn a_request_is_shown_when_it_is_all_that_is_named() {
        for (query, fits) in [
            ("", true),
            ("method=get&path=/orders&status=5xx", true),
            ("status=503&route=shop/orders&service=shop/orders", true),
            ("reason=no_endpoints&direction=outbound&sample=100", true),
            ("path=%2Forders%2F1", true),
            ("method=POST", false),
            ("path=/items", false),
            ("status=502", false),
            ("status=4xx", false),
            ("route=shop/others", false),
            ("service=shop/others", false),
            ("reason=request_timeout", false),
            ("direction=inbound", false),
            ("method=GET&status=2xx", false),
            ("sample=0", false),
        ] {
            let wanted = Wanted::read(query).unwrap();
            assert_eq!(wanted.fits(&line(), facts(1)), fits, "{query}");
        }
    }

    #[test]
    fn a_sample_shows_a_share_of_the_traces() {
        let tenth = Wanted::read("sample=10").unwrap();
        assert!(tenth.fits(&line(), facts(0)));
        assert!(!tenth.fits(&line(), facts(u32::MAX)));
    }

    #[test]
    fn what_is_wanted_wrongly_is_told_with_what_to_write() {
        for (query, says) in [
            ("metod=GET", "write method, path,"),
            ("status=6xx", "a class such as 5xx"),
            ("status=xx", "a class such as 5xx"),
            ("status=99", "a number such as 503"),
            ("route=orders", "namespace/name"),
            ("service=/x", "namespace/name"),
            ("reason=because", "one of no_route"),
            ("direction=up", "outbound or inbound"),
            ("sample=200", "from 0 to 100"),
        ] {
            let refused = Wanted::read(query).unwrap_err();
            assert!(refused.contains(says), "{query}: {refused}");
        }
    }
}
