//! Where something is served, as flags say it.

use std::net::SocketAddr;
use std::str::FromStr;

/// An address, or nowhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place(pub(super) Option<SocketAddr>);

impl FromStr for Place {
    type Err = String;

    /// Reads `IP:PORT`; nothing is for nowhere.
    fn from_str(text: &str) -> Result<Self, String> {
        let parse =
            || text.parse().map_err(|_| format!("{text} is not IP:PORT, such as 0.0.0.0:8080"));
        Ok(Self((!text.is_empty()).then(parse).transpose()?))
    }
}
