//! The middle of an address: `user:password@host:port` (RFC 3986, section 3.2).

/// Who is to be asked where.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    /// Empty when there is none.
    pub(crate) user: String,
    /// Empty when there is none.
    pub(crate) password: String,
    /// A name, or an address without its brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

// === impl Authority ===

impl Authority {
    /// Reads one; `port`: of one that names none.
    pub(crate) fn read(text: &str, port: u16) -> Option<Self> {
        let (credentials, place) = text.rsplit_once('@').unwrap_or(("", text));
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let bracketed = place
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'));
        let (host, named) = match bracketed {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':')?)),
            None => match place.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            },
        };
        let port = named.map_or(Some(port), |port| port.parse().ok())?;
        if host.is_empty() || port == 0 {
            return None;
        }
        Some(Self {
            user: decoded(user)?,
            password: decoded(password)?,
            host: host.to_owned(),
            port,
        })
    }
}

/// What stands in place of `%xx`.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digits = str::from_utf8(&digits).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).ok()
}
