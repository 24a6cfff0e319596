//! Filters: from `crds::EventFilter` to `mesh::EventFilter`.

use std::collections::BTreeMap;

use crds::event_subscription::{DataFilter, EventFilter, InnerFilter, InnermostFilter};
use wire::filter::Filter;
use wire::mesh::{self, event_data, event_filter::Dialect};

/// What is sent of them, and what of them can't be read, as sentences.
pub(super) fn compile(written: &[EventFilter]) -> (Vec<mesh::EventFilter>, Vec<String>) {
    let sent = Vec::from_iter(written.iter().map(outer));
    let mut problems = Vec::new();
    for (place, filter) in sent.iter().enumerate() {
        if let Err(why) = Filter::build(filter) {
            problems.push(format!("spec.filters[{place}].{why}."));
        }
    }
    (sent, problems)
}

fn outer(written: &EventFilter) -> mesh::EventFilter {
    let inner = |one: &InnerFilter| inner(one);
    let all = written.all.as_ref().map(|all| list(all.iter().map(inner)));
    let any = written.any.as_ref().map(|any| list(any.iter().map(inner)));
    let not = written.not.as_ref().map(inner);
    let texts = (&written.exact, &written.prefix, &written.suffix);
    let plain = plain(texts, &written.sql, &written.data);
    combined(plain, all, any, not)
}

fn inner(written: &InnerFilter) -> mesh::EventFilter {
    let innermost = |one: &InnermostFilter| innermost(one);
    let all = written
        .all
        .as_ref()
        .map(|all| list(all.iter().map(innermost)));
    let any = written
        .any
        .as_ref()
        .map(|any| list(any.iter().map(innermost)));
    let not = written.not.as_ref().map(innermost);
    let texts = (&written.exact, &written.prefix, &written.suffix);
    let plain = plain(texts, &written.sql, &written.data);
    combined(plain, all, any, not)
}

fn innermost(written: &InnermostFilter) -> mesh::EventFilter {
    let texts = (&written.exact, &written.prefix, &written.suffix);
    let plain = plain(texts, &written.sql, &written.data);
    combined(plain, None, None, None)
}

type Values = Option<BTreeMap<String, String>>;

fn plain(
    (exact, prefix, suffix): (&Values, &Values, &Values),
    sql: &Option<String>,
    tested: &Option<DataFilter>,
) -> Option<Dialect> {
    let exact = exact.as_ref().map(|all| Dialect::Exact(values(all)));
    let prefix = || prefix.as_ref().map(|all| Dialect::Prefix(values(all)));
    let suffix = || suffix.as_ref().map(|all| Dialect::Suffix(values(all)));
    let sql = || sql.clone().map(Dialect::Sql);
    let data = || tested.as_ref().map(|one| Dialect::Data(data(one)));
    let texts = exact.or_else(prefix).or_else(suffix);
    texts.or_else(sql).or_else(data)
}

fn data(written: &DataFilter) -> mesh::EventData {
    use event_data::Test;
    let numbers = [
        (&written.less_than, Test::LessThan as fn(String) -> Test),
        (&written.less_than_or_equal, Test::LessThanOrEqual),
        (&written.greater_than, Test::GreaterThan),
        (&written.greater_than_or_equal, Test::GreaterThanOrEqual),
        (&written.equals, Test::Equals),
    ];
    let mut tests = numbers
        .into_iter()
        .filter_map(|(text, test)| text.clone().map(test));
    let exists = || written.exists.map(Test::Exists);
    mesh::EventData {
        path: written.path.clone(),
        test: tests.next().or_else(exists),
    }
}

fn combined(
    plain: Option<Dialect>,
    all: Option<mesh::EventFilters>,
    any: Option<mesh::EventFilters>,
    not: Option<mesh::EventFilter>,
) -> mesh::EventFilter {
    let all = || all.map(Dialect::All);
    let any = || any.map(Dialect::Any);
    let not = || not.map(|not| Dialect::Not(Box::new(not)));
    mesh::EventFilter {
        dialect: plain.or_else(all).or_else(any).or_else(not),
    }
}

fn list(filters: impl Iterator<Item = mesh::EventFilter>) -> mesh::EventFilters {
    mesh::EventFilters {
        filters: filters.collect(),
    }
}

fn values(written: &BTreeMap<String, String>) -> mesh::EventValues {
    let values = written.iter().map(|(attribute, value)| mesh::EventValue {
        attribute: attribute.clone(),
        value: value.clone(),
    });
    mesh::EventValues {
        values: values.collect(),
    }
}
