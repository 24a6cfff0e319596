//! Which events are delivered: those that pass every filter.

use std::cell::OnceCell;

use wire::cesql::{Attributes, Value};
use wire::data::Json;
use wire::filter::{Filter, Filtered};

use super::cloud_event::Event;

/// An event whose data are looked into once, however many filters ask.
struct Asked<'e> {
    event: &'e Event,
    json: OnceCell<Option<Json<'e>>>,
}

/// Whether an event passes every filter.
pub(super) fn passes(filters: &[Filter], event: &Event) -> bool {
    let asked = Asked {
        event,
        json: OnceCell::new(),
    };
    filters.iter().all(|filter| filter.passes(&asked))
}

// === impl Asked ===

impl Attributes for Asked<'_> {
    fn attribute(&self, name: &str) -> Option<Value<'_>> {
        Attributes::attribute(self.event, name)
    }
}

impl Filtered for Asked<'_> {
    fn json(&self) -> Option<Json<'_>> {
        *self.json.get_or_init(|| self.event.json())
    }
}

#[cfg(test)]
mod tests {
    use wire::mesh::{self, event_data::Test, event_filter::Dialect};

    use super::*;

    #[test]
    fn data_are_tested_that_are_json_by_their_media_type() {
        let filter = Filter::build(&mesh::EventFilter {
            dialect: Some(Dialect::Data(mesh::EventData {
                path: "$.qty".into(),
                test: Some(Test::LessThan("10".into())),
            })),
        });
        let filters = [filter.unwrap()];
        let passes = |media_type: Option<&str>, data: &'static str| {
            let mut event = Event::trusted("1", "/a", "t");
            if let Some(media_type) = media_type {
                event.set("datacontenttype", media_type).unwrap();
            }
            event.data = data.into();
            passes(&filters, &event)
        };
        let few = r#"{"qty": 9}"#;
        assert!(passes(Some("application/json"), few));
        assert!(passes(
            Some("application/vnd.shop+json; charset=utf-8"),
            few
        ));
        assert!(passes(None, few));
        assert!(!passes(Some("application/json"), r#"{"qty": 10}"#));
        for (media_type, data) in [
            (Some("text/plain"), few),
            (Some("application/json; charset=utf-16"), few),
            (Some("application/json"), "{\"qty\": 9"),
            (Some("application/json"), ""),
            (None, "qty=9"),
        ] {
            assert!(!passes(media_type, data), "{media_type:?} {data}");
        }
    }
}
