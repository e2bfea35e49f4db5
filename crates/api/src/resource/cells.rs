//! What the columns of `kubectl get` show, as far as kinds share it.

use jiff::Timestamp;
use serde_json::Value;

use super::Column;

/// A column that is always shown.
pub(super) const fn column(name: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 0 }
}

/// A column that is shown with `-o wide`.
pub(super) const fn wide(name: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 1 }
}

/// A column of numbers.
pub(super) const fn number(name: &'static str) -> Column {
    Column { name, kind: "integer", format: "", priority: 0 }
}

/// The column of names.
pub(super) const NAME: Column =
    Column { name: "Name", kind: "string", format: "name", priority: 0 };

/// The column of ages.
pub(super) const AGE: Column = column("Age");

/// The name of an object.
pub(super) fn name(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

/// How long ago an object was made.
pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    since(&object["metadata"]["creationTimestamp"], now)
}

/// How long ago a time was.
pub(super) fn since(time: &Value, now: Timestamp) -> Value {
    match time.as_str().and_then(|time| time.parse::<Timestamp>().ok()) {
        Some(time) => duration(now.as_second() - time.as_second()).into(),
        None => "<unknown>".into(),
    }
}

/// A duration as people read it: two units at most, and the smaller only while it tells something.
pub(super) fn duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let with = |n: i64, unit: &str, rest: i64, small: &str| match rest {
        0 => format!("{n}{unit}"),
        rest => format!("{n}{unit}{rest}{small}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => with(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => with(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => with(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        _ => with(days / 365, "y", days % 365, "d"),
    }
}

/// A list of texts joined by commas, or `<none>`.
pub(super) fn joined(texts: impl IntoIterator<Item = String>) -> Value {
    let texts: Vec<String> = texts.into_iter().collect();
    match texts.is_empty() {
        true => "<none>".into(),
        false => texts.join(",").into(),
    }
}

/// Labels as `key=value`, joined by commas, or `<none>`.
pub(super) fn labels(labels: &Value) -> Value {
    let labels = labels.as_object().into_iter().flatten();
    joined(labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())))
}

/// The texts of a list.
pub(super) fn texts(list: &Value) -> impl Iterator<Item = String> + '_ {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (seconds, expected) in [
            (-5, "0s"),
            (5, "5s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (11_520, "3h12m"),
            (36_000, "10h"),
            (5 * 86_400, "5d"),
            (10 * 86_400, "10d"),
            (3 * 365 * 86_400, "3y"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }
}
