//! What a rule says of events that come as plain bodies: attributes that are taken from the request, or from the data.

use http::header::HeaderMap;

use super::Event;
use crate::config::publish::{From, Publishing};
use crate::events::cloud_event::Malformed;

/// Which attribute tells events apart.
const ID: &str = "id";

/// Whether the rule says what tells events apart.
pub(super) fn have_id(to: &Publishing) -> bool {
    to.attributes.iter().any(|(name, _)| name == ID)
}

/// Sets them on an event with its data.
///
/// # Errors
/// That it has no id where the rule says what that is, or that a value can be none of an attribute.
pub(super) fn set(
    to: &Publishing,
    event: &mut Event,
    headers: &HeaderMap,
) -> Result<(), Malformed> {
    let looks = |(_, from): &(String, From)| matches!(from, From::Data(..));
    let mut found = Vec::with_capacity(to.attributes.len());
    {
        let json = to.attributes.iter().any(looks).then(|| event.json());
        let json = json.flatten();
        for (name, from) in &to.attributes {
            let value = match from {
                From::Value(value) => Some(value.clone()),
                From::Header(header) => headers
                    .get(header)
                    .and_then(|value| value.to_str().ok())
                    .map(str::to_owned),
                From::Data(path, _) => json.as_ref().and_then(|json| path.scalar(*json)),
            };
            // What is empty says nothing.
            match value.filter(|value| !value.is_empty()) {
                Some(value) => found.push((name, value)),
                None if name == ID => return Err(Malformed::NoId(from.to_string())),
                None => {}
            }
        }
    }
    for (name, value) in found {
        event.set(name, value)?;
    }
    Ok(())
}
