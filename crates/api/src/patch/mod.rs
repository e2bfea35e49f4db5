//! Applying patches to objects: RFC 6902, RFC 7386, strategic merge, and server-side apply.
//!
//! Pure: a patch and an object in, an object out.

mod apply;
mod schema;
mod strategic;

use serde_json::Value;

use crate::status::{Result, Status};
pub(crate) use apply::{Conflict, apply};

/// How a patch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `application/json-patch+json`, RFC 6902.
    Json,
    /// `application/merge-patch+json`, RFC 7386.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
    /// `application/apply-patch+yaml`, server-side apply.
    Apply,
}

/// The media types of patches.
pub(crate) const MEDIA_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

impl Format {
    /// The format that a media type stands for.
    pub(crate) fn of(media_type: &str) -> Result<Self> {
        match media_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Ok(Format::Json),
            "application/merge-patch+json" => Ok(Format::Merge),
            "application/strategic-merge-patch+json" => Ok(Format::Strategic),
            "application/apply-patch+yaml" => Ok(Format::Apply),
            other => Err(Status::unsupported_media_type(other, &MEDIA_TYPES)),
        }
    }
}

/// Applies a JSON, merge or strategic merge patch.
pub(crate) fn patch(format: Format, object: &Value, patch: &Value) -> Result<Value> {
    let mut patched = object.clone();
    match format {
        Format::Json => {
            let operations: json_patch::Patch =
                serde_json::from_value(patch.clone()).map_err(|error| {
                    Status::bad_request(format!("the JSON patch is malformed: {error}"))
                })?;
            json_patch::patch(&mut patched, &operations).map_err(|error| Status {
                code: 422,
                ..Status::bad_request(format!("the JSON patch does not apply: {error}"))
            })?;
        }
        Format::Merge => json_patch::merge(&mut patched, patch),
        Format::Strategic | Format::Apply => strategic::merge(&mut patched, patch)?,
    }
    Ok(patched)
}
