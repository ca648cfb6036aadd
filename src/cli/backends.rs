//! From the backend that was asked for to one that is at hand.

use std::sync::Arc;

use super::settings::Settings;
use crate::config::BackendKind;
use crate::error::{Code, Error, Result};
use crate::provider::backend::openai::{LOCAL_PORTS, ServerAddress, find};
use crate::provider::backend::{Backend, Echo, OpenAi};
use crate::secret::Secret;

/// The variable with OpenAI's key, under the name that OpenAI's users know.
pub const OPENAI_KEY_VARIABLE: &str = "OPENAI_API_KEY";

/// The backend that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendChoice {
    /// Repeats the prompt.
    Echo,
    /// The server that is found on this machine.
    Find,
    /// The server at this address, which gets this key.
    At(ServerAddress, Option<Secret>),
}

impl BackendChoice {
    /// What the flags mean over these settings.
    ///
    /// # Errors
    /// [`Code::Usage`] if the address is none, the key can't be had, or they don't fit each other.
    pub fn resolve(
        kind: Option<BackendKind>,
        url: Option<&str>,
        settings: &Settings,
    ) -> Result<Self> {
        let file = &settings.config.provider;
        if kind.unwrap_or(file.backend) == BackendKind::Echo {
            return match url {
                Some(_) => Err(usage("--backend-url: the backend echo has no server")),
                None => Ok(Self::Echo),
            };
        }
        let read = |text: &str, whose: &str| {
            text.parse::<ServerAddress>()
                .map_err(|error| usage(format!("{whose}: {error}")))
        };
        let of_flag = url.map(|url| read(url, "--backend-url")).transpose()?;
        let of_file = file.backend_url.as_deref();
        let of_file = of_file
            .map(|url| read(url, "[provider] backend_url"))
            .transpose()?;
        let meant = of_file.clone();
        match of_flag.or(of_file) {
            Some(address) => {
                let key = key_for(&address, meant.as_ref(), settings)?;
                Ok(Self::At(address, key))
            }
            None if file.backend_key.is_some() => Err(usage(
                "[provider] backend_key: say which server it is for with backend_url; a key is not \
                 sent to whatever answers on this machine",
            )),
            None => Ok(Self::Find),
        }
    }

    /// Opens it: looks for it, where no address was given. `note` is told what was found.
    ///
    /// # Errors
    /// [`Code::Network`] if there is none; [`Code::Usage`] if the key or TLS can't be used.
    pub async fn open(&self, note: impl FnOnce(&str)) -> Result<Arc<dyn Backend>> {
        match self {
            Self::Echo => Ok(Arc::new(Echo)),
            Self::At(address, key) => {
                let server = OpenAi::new(address.clone(), key.clone());
                Ok(Arc::new(server.map_err(|error| usage(error.to_string()))?))
            }
            Self::Find => {
                let found = find(&LOCAL_PORTS).await;
                let (server, models) =
                    found.map_err(|none| Error::new(Code::Network, none.to_string()))?;
                let (at, models) = (server.address(), models.join(", "));
                note(&format!("found a model server at {at} with {models}"));
                Ok(Arc::new(server))
            }
        }
    }
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(Code::Usage, message)
}

/// The key for a server. Each key goes to the server that its owner meant it for and to no other: the one
/// in the configuration to the server named there (`meant`), or to the flag's if none is; OpenAI's own to
/// OpenAI.
fn key_for(
    address: &ServerAddress,
    meant: Option<&ServerAddress>,
    settings: &Settings,
) -> Result<Option<Secret>> {
    let environment = &settings.identity.environment;
    let key = match &settings.config.provider.backend_key {
        Some(_) if meant.is_some_and(|meant| !meant.is_same_server(address)) => None,
        Some(reference) => {
            let key = reference.resolve(environment, &settings.config.folder);
            let key = key.map_err(|error| usage(format!("[provider] backend_key: {error}")))?;
            Some(key)
        }
        None if address.is_openai() => environment
            .secret(OPENAI_KEY_VARIABLE)
            .map_err(|error| usage(error.to_string()))?,
        None => None,
    };
    if key.is_some() && !address.is_https() && !address.is_local() {
        tracing::warn!(%address, "the key goes there unencrypted: everybody on the way can read it");
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::cli::args::GlobalArgs;
    use crate::config::Role;
    use crate::secret::Environment;

    fn choose(
        config: &str,
        kind: Option<BackendKind>,
        url: Option<&str>,
        environment: Environment,
    ) -> Result<BackendChoice> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.toml"), config).unwrap();
        std::fs::write(folder.path().join("key"), "sk-of-a-file\n").unwrap();
        let flags = GlobalArgs {
            home: Some(folder.path().to_owned()),
            ..GlobalArgs::default()
        };
        let settings = Settings::resolve(Role::Provider, &flags, false, environment)?;
        BackendChoice::resolve(kind, url, &settings)
    }

    fn key(config: &str, url: Option<&str>) -> Option<String> {
        let environment = Environment::of([("OPENAI_API_KEY", "sk-openai"), ("MINE", "sk-mine")]);
        match choose(config, None, url, environment).unwrap() {
            BackendChoice::At(_, key) => key.map(|key| key.expose().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_flag_comes_before_the_file_and_the_default_is_to_look() {
        let none = || Environment::of([]);
        let at = |choice| match choice {
            Ok(BackendChoice::At(address, None)) => address.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(choose("", None, None, none()).unwrap(), BackendChoice::Find);
        let openai = Some(BackendKind::Openai);
        assert_eq!(
            choose("", openai, None, none()).unwrap(),
            BackendChoice::Find
        );
        let file = "[provider]\nbackend = \"echo\"\nbackend_url = \"http://file:1\"";
        assert_eq!(
            choose(file, None, None, none()).unwrap(),
            BackendChoice::Echo
        );
        assert_eq!(at(choose(file, openai, None, none())), "http://file:1/v1");
        let flag = Some("http://flag:2/v1/");
        assert_eq!(at(choose(file, openai, flag, none())), "http://flag:2/v1");
        for (config, kind, url, why) in [
            ("", None, Some("localhost:8080"), "--backend-url"),
            ("", Some(BackendKind::Echo), flag, "echo has no server"),
            ("[provider]\nbackend_url = \"x\"", None, None, "backend_url"),
        ] {
            let error = choose(config, kind, url, none()).unwrap_err();
            assert_eq!(error.code(), Code::Usage);
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn a_key_goes_to_the_server_that_it_is_meant_for_and_to_no_other() {
        let mine = "[provider]\nbackend_key = \"env:MINE\"\n";
        let of_file = "[provider]\nbackend_key = \"file:key\"\nbackend_url = \"http://here:1\"\n";
        assert_eq!(key(of_file, None).as_deref(), Some("sk-of-a-file"));
        assert_eq!(
            key(of_file, Some("http://here:1/v1")).as_deref(),
            Some("sk-of-a-file")
        );
        assert_eq!(key(of_file, Some("http://elsewhere:1")), None);
        assert_eq!(key(of_file, Some("https://here:1")), None);
        assert_eq!(
            key(mine, Some("http://elsewhere:1")).as_deref(),
            Some("sk-mine")
        );
        let openai = Some("https://api.openai.com");
        assert_eq!(key(mine, openai).as_deref(), Some("sk-mine"));
        assert_eq!(key("", openai).as_deref(), Some("sk-openai"));
        assert_eq!(key("", Some("http://api.openai.com")), None);
        assert_eq!(key("", Some("http://127.0.0.1:8080")), None);
        let nowhere = choose(mine, None, None, Environment::of([("MINE", "sk-mine")]));
        assert!(nowhere.unwrap_err().to_string().contains("backend_url"));
        let missing = choose(mine, None, openai, Environment::of([]));
        assert!(missing.unwrap_err().to_string().contains("MINE"));
    }
}
