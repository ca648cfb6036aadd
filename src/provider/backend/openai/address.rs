//! Where an OpenAI-compatible server is.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;

/// What addresses end with that stand in other programs' configuration for one call.
const CALLS: [&str; 3] = ["/chat/completions", "/completions", "/models"];

/// The address of an OpenAI-compatible API: `http://127.0.0.1:11434/v1`. Read from a text with or without
/// the `/v1`; it never holds a name, a password or a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    base: Url,
}

/// Why a text is no address of a server. Does not repeat the text, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnAddress {
    /// It has no form that an address has.
    #[error("expected http://HOST:PORT or https://HOST, with or without /v1")]
    Malformed,
    /// It holds a name or a password.
    #[error("an address holds no name and no password; a key belongs into [provider] backend_key")]
    Credentials,
    /// It has a part after `?` or `#`.
    #[error("expected an address without ? and #")]
    Query,
}

impl ServerAddress {
    /// A port of this machine.
    #[must_use]
    pub fn local(port: u16) -> Option<Self> {
        format!("http://127.0.0.1:{port}").parse().ok()
    }

    /// What every call's address begins with; without a slash at its end.
    #[must_use]
    pub fn base(&self) -> &str {
        self.base.as_str()
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.base.scheme() == "https"
    }

    /// Whether it is this machine, which nobody listens in on.
    #[must_use]
    pub fn is_local(&self) -> bool {
        let host = self.base.host_str().unwrap_or_default();
        let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }

    /// Whether it is OpenAI itself, and the connection encrypted.
    #[must_use]
    pub fn is_openai(&self) -> bool {
        let host = self.base.host_str().unwrap_or_default();
        self.is_https() && (host == "api.openai.com" || host.ends_with(".api.openai.com"))
    }

    /// Whether both are the same server: scheme, host and port.
    #[must_use]
    pub fn is_same_server(&self, other: &Self) -> bool {
        self.base.origin() == other.base.origin()
    }
}

impl FromStr for ServerAddress {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut url = Url::parse(text.trim()).map_err(|_| NotAnAddress::Malformed)?;
        if !matches!(url.scheme(), "http" | "https") || url.port() == Some(0) {
            return Err(NotAnAddress::Malformed);
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(NotAnAddress::Malformed);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(NotAnAddress::Credentials);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(NotAnAddress::Query);
        }
        let mut path = url.path().trim_end_matches('/');
        // However often it was pasted: what is shown must be read as the same again.
        while let Some(before) = CALLS.iter().find_map(|call| path.strip_suffix(call)) {
            path = before.trim_end_matches('/');
        }
        // Gateways have their versions anywhere (`/v1beta/openai`); who names none means the first.
        let path = if path.split('/').any(is_version) {
            path.to_owned()
        } else {
            format!("{path}/v1")
        };
        url.set_path(&path);
        Ok(Self { base: url })
    }
}

fn is_version(segment: &str) -> bool {
    let number = segment.strip_prefix('v').unwrap_or_default();
    number.starts_with(|c: char| c.is_ascii_digit())
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.base())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, NotAnAddress> {
        text.parse()
            .map(|address: ServerAddress| address.to_string())
    }

    #[test]
    fn an_address_is_read_with_and_without_its_version() {
        for (text, base) in [
            ("http://127.0.0.1:11434", "http://127.0.0.1:11434/v1"),
            ("http://127.0.0.1:11434/", "http://127.0.0.1:11434/v1"),
            ("http://localhost:8080/v1", "http://localhost:8080/v1"),
            (" http://localhost:8080/v1/ ", "http://localhost:8080/v1"),
            ("http://[::1]:8080", "http://[::1]:8080/v1"),
            ("https://api.openai.com", "https://api.openai.com/v1"),
            (
                "https://openrouter.ai/api/v1",
                "https://openrouter.ai/api/v1",
            ),
            ("https://host/llm", "https://host/llm/v1"),
            ("https://host/v1beta/openai/", "https://host/v1beta/openai"),
            ("http://h:1/v1/chat/completions", "http://h:1/v1"),
            ("http://h:1/v1/models", "http://h:1/v1"),
            ("http://h:1/v1//chat/completions/", "http://h:1/v1"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(base), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        for (text, why) in [
            ("", NotAnAddress::Malformed),
            ("nonsense", NotAnAddress::Malformed),
            ("localhost:8080", NotAnAddress::Malformed),
            ("127.0.0.1:8080", NotAnAddress::Malformed),
            ("ws://localhost", NotAnAddress::Malformed),
            ("file:///etc/passwd", NotAnAddress::Malformed),
            ("http://", NotAnAddress::Malformed),
            ("http://localhost:0", NotAnAddress::Malformed),
            ("http://localhost:99999", NotAnAddress::Malformed),
            ("http://me:hunter2@host/v1", NotAnAddress::Credentials),
            ("http://sk-key@host/v1", NotAnAddress::Credentials),
            ("http://host/v1?key=hunter2", NotAnAddress::Query),
            ("http://host/v1#x", NotAnAddress::Query),
        ] {
            assert_eq!(read(text), Err(why), "{text}");
            assert!(!why.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn openai_is_known_by_its_whole_name_and_over_tls_alone() {
        let is = |text: &str| {
            text.parse()
                .map(|address: ServerAddress| address.is_openai())
        };
        assert_eq!(is("https://api.openai.com/v1"), Ok(true));
        assert_eq!(is("https://eu.api.openai.com/v1"), Ok(true));
        assert_eq!(is("http://api.openai.com/v1"), Ok(false));
        assert_eq!(is("https://api.openai.com.evil.example/v1"), Ok(false));
        assert_eq!(is("https://fakeapi.openai.com.example/v1"), Ok(false));
        assert_eq!(is("https://evilapi.openai.com/v1"), Ok(false));
    }
}
