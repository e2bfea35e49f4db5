//! What dig has printed, beside what a row says.

use std::fmt;

use super::case::{Case, whole};

/// Longer sections are counted only: addresses take turns in what is left out.
const LISTED: usize = 16;

/// What an answer is, as text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    status: String,
    flags: String,
    edns: String,
    sections: [Vec<String>; 3],
}

/// Names of the sections, as dig has them.
const SECTIONS: [&str; 3] = ["ANSWER", "AUTHORITY", "ADDITIONAL"];

impl Reply {
    /// Reads what dig has printed.
    pub(crate) fn read(text: &str) -> Self {
        let mut reply = Self {
            status: between(text, "status: ", ","),
            flags: between(text, ";; flags: ", ";"),
            edns: between(text, "; EDNS: ", "\n"),
            sections: SECTIONS.map(|name| section(text, name)),
        };
        // A transfer has no more than that.
        if reply.status.is_empty() {
            reply.status = text.lines().last().unwrap_or_default().to_owned();
        }
        reply
    }

    /// None came, for this reason.
    pub(crate) fn none(why: String) -> Self {
        Self { status: why, ..Self::read("") }
    }

    /// What a row asks for.
    pub(crate) fn expected(case: &Case) -> Self {
        let sections = [case.answer, case.authority, case.additional];
        Self {
            status: case.status.to_owned(),
            flags: case.flags.to_owned(),
            edns: case.edns.to_owned(),
            sections: sections.map(|lines| lines.iter().map(|line| whole(line)).collect()),
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, flags: {}, EDNS: {}", self.status, self.flags, self.edns)?;
        for (name, lines) in SECTIONS.iter().zip(&self.sections) {
            for line in lines {
                write!(f, "\n    {name}: {line}")?;
            }
        }
        Ok(())
    }
}

/// What is between two texts, if they are there.
fn between(text: &str, from: &str, to: &str) -> String {
    let rest = text.split_once(from).map_or("", |(_, rest)| rest);
    rest.split(to).next().unwrap_or_default().to_owned()
}

/// The records of a section in order, or how many if they are many.
fn section(text: &str, name: &str) -> Vec<String> {
    let lines = text.lines().skip_while(|line| *line != format!(";; {name} SECTION:")).skip(1);
    let mut lines: Vec<String> = lines.take_while(|line| !line.is_empty()).map(record).collect();
    lines.sort_unstable();
    match lines.len() {
        0..=LISTED => lines,
        count => vec![format!("{count} records")],
    }
}

/// A record with one blank between words, and without the number that counts changes.
fn record(line: &str) -> String {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    if let [_, _, _, "SOA", _, _, serial, ..] = &mut words[..] {
        *serial = "SERIAL";
    }
    words.join(" ")
}
