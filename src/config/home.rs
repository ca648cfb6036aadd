//! The folders that everything is kept in.

use std::path::{Path, PathBuf};

use directories::ProjectDirs;

use crate::error::{Code, Error};

/// Which of the two programs. Each has a folder, and so a key, of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Buys.
    Customer,
    /// Sells.
    Provider,
}

impl Role {
    /// The name of its folder.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Provider => "provider",
        }
    }
}

/// Where configuration and data are. Making one touches nothing on disk.
///
/// ```text
/// config.toml
/// customer/identity.enc   customer/ledger.sqlite
/// provider/identity.enc   provider/jobs.sqlite
/// customer/nwc.uri        provider/nwc.uri
/// sim-bank.sqlite
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    config: PathBuf,
    data: PathBuf,
}

impl Home {
    /// Everything in one folder.
    #[must_use]
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        let data = folder.into();
        Self {
            config: data.join("config.toml"),
            data,
        }
    }

    /// The user's own: the XDG configuration and data folders of `agent-compute`, or what the platform
    /// has in their place.
    ///
    /// # Errors
    /// If this user has no home directory.
    pub fn of_user() -> Result<Self, Error> {
        let folders = ProjectDirs::from("", "", "agent-compute").ok_or_else(|| {
            Error::new(
                Code::Usage,
                "this user has no home directory: name a folder with --home or AGENT_COMPUTE_HOME",
            )
        })?;
        Ok(Self {
            config: folders.config_dir().join("config.toml"),
            data: folders.data_dir().to_owned(),
        })
    }

    /// The configuration file. It need not exist.
    #[must_use]
    pub fn config_file(&self) -> &Path {
        &self.config
    }

    /// The folder above those of the two programs.
    #[must_use]
    pub fn data_folder(&self) -> &Path {
        &self.data
    }

    /// The folder of one program.
    #[must_use]
    pub fn folder(&self, role: Role) -> PathBuf {
        self.data.join(role.as_str())
    }

    /// The identity file of one program.
    #[must_use]
    pub fn identity_file(&self, role: Role) -> PathBuf {
        self.folder(role).join("identity.enc")
    }

    /// The customer's ledger.
    #[must_use]
    pub fn ledger_file(&self) -> PathBuf {
        self.folder(Role::Customer).join("ledger.sqlite")
    }

    /// The provider's record of jobs.
    #[must_use]
    pub fn jobs_file(&self) -> PathBuf {
        self.folder(Role::Provider).join("jobs.sqlite")
    }

    /// Where `wallet setup nwc` keeps the connection of one program.
    #[must_use]
    pub fn nwc_file(&self, role: Role) -> PathBuf {
        self.folder(role).join("nwc.uri")
    }

    /// Where `wallet setup spark` puts this version of the Spark SDK, for both programs.
    #[must_use]
    pub fn spark_environment(&self, version: &str) -> PathBuf {
        self.data.join(format!("spark-sdk-{version}"))
    }

    /// Where the Spark wallet of one program keeps its records.
    #[must_use]
    pub fn spark_storage(&self, role: Role) -> PathBuf {
        self.folder(role).join("spark")
    }

    /// The bank of play money, unless the owner names another.
    #[must_use]
    pub fn sim_bank_file(&self) -> PathBuf {
        self.data.join("sim-bank.sqlite")
    }

    /// Makes the folder of one program and those above it, for their owner alone (0700). Folders that
    /// exist are left as they are.
    ///
    /// # Errors
    /// [`Code::Usage`], naming the folder: it was the owner who said where it is.
    pub fn make_folder(&self, role: Role) -> Result<PathBuf, Error> {
        let folder = self.folder(role);
        crate::secret::make_private_folder(&folder)
            .map_err(|problem| {
                let path = folder.display();
                Error::new(
                    Code::Usage,
                    format!("the folder {path} can't be made: {problem}; name another with --home"),
                )
            })
            .map(|()| folder)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_folder_holds_everything() {
        let home = Home::at("/h");
        assert_eq!(home.config_file(), Path::new("/h/config.toml"));
        assert_eq!(
            home.identity_file(Role::Provider),
            Path::new("/h/provider/identity.enc")
        );
        assert_eq!(home.ledger_file(), Path::new("/h/customer/ledger.sqlite"));
        assert_eq!(home.jobs_file(), Path::new("/h/provider/jobs.sqlite"));
        assert_eq!(home.sim_bank_file(), Path::new("/h/sim-bank.sqlite"));
    }

    #[cfg(unix)]
    #[test]
    fn folders_are_their_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;

        let above = tempfile::tempdir().unwrap();
        let home = Home::at(above.path().join("a/b"));
        let folder = home.make_folder(Role::Customer).unwrap();
        assert_eq!(home.make_folder(Role::Customer).unwrap(), folder);
        for made in [home.data_folder(), &folder] {
            let mode = made.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", made.display());
        }
        std::fs::write(home.folder(Role::Provider), "in the way").unwrap();
        let error = home.make_folder(Role::Provider).unwrap_err();
        assert_eq!(error.code(), Code::Usage);
    }
}
