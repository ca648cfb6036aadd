#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use super::wallet::SIM_BANK_VARIABLE;
use super::*;
use crate::config::WalletKind;

struct Owner {
    folder: tempfile::TempDir,
}

impl Owner {
    fn with(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.toml"), config).unwrap();
        Self { folder }
    }

    fn flags(&self) -> GlobalArgs {
        GlobalArgs {
            home: Some(self.folder.path().to_owned()),
            ..GlobalArgs::default()
        }
    }

    fn settings(&self, flags: &GlobalArgs, environment: Environment) -> Result<Settings> {
        Settings::resolve(Role::Customer, flags, false, environment)
    }
}

fn refused(result: Result<impl std::fmt::Debug>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.code(), Code::Usage);
    error.message().to_owned()
}

#[test]
fn a_flag_comes_before_the_environment_and_that_before_the_file() {
    let owner = Owner::with(
        "[relays]\nurls = [\"ws://file\"]\n[wallet]\nkind = \"sim\"\n[wallet.sim]\nbank = \"b\"",
    );
    let flags = owner.flags();
    let of_file = owner.settings(&flags, Environment::of([])).unwrap();
    assert_eq!(of_file.relays, [RelayUrl::parse("ws://file").unwrap()]);
    let bank = |settings: Settings| match settings.wallet {
        WalletChoice::Sim(sim) => sim.bank,
        other => panic!("{other:?}"),
    };
    assert_eq!(bank(of_file), owner.folder.path().join("b"));

    let environment = Environment::of([
        (SIM_BANK_VARIABLE, "/bank"),
        (HOME_VARIABLE, "/nonexistent"),
    ]);
    let of_environment = owner.settings(&flags, environment.clone()).unwrap();
    assert_eq!(of_environment.home, Home::at(owner.folder.path()));
    assert_eq!(bank(of_environment), PathBuf::from("/bank"));

    let flags = GlobalArgs {
        relay: vec![RelayUrl::parse("ws://flag").unwrap(); 2],
        ..GlobalArgs::default()
    };
    let elsewhere = owner.settings(&flags, environment).unwrap();
    assert_eq!(elsewhere.home, Home::at("/nonexistent"));
    assert_eq!(elsewhere.relays, [RelayUrl::parse("ws://flag").unwrap()]);
}

#[test]
fn without_anything_there_is_no_wallet_and_the_usual_relays() {
    let owner = Owner::with("");
    let settings = owner.settings(&owner.flags(), Environment::of([])).unwrap();
    assert_eq!(settings.wallet, WalletChoice::Unset);
    assert_eq!(settings.network, None);
    assert_eq!(settings.relays.len(), 3);
    let scope = settings.scope();
    assert!(!scope.play_money && scope.network == Network::Mainnet);
}

#[test]
fn a_network_that_the_wallet_is_not_on_is_refused() {
    let owner = Owner::with("[wallet]\nkind = \"sim\"");
    let on = |network| GlobalArgs {
        network: Some(network),
        ..owner.flags()
    };
    let settled = |network| owner.settings(&on(network), Environment::of([]));
    assert!(settled(Network::Regtest).is_ok());
    assert!(refused(settled(Network::Mainnet)).contains("regtest"));

    let without =
        |flags: &GlobalArgs| Settings::resolve(Role::Customer, flags, true, Environment::of([]));
    assert_eq!(
        without(&owner.flags()).unwrap().wallet,
        WalletChoice::Without
    );
    assert!(refused(without(&on(Network::Signet))).contains("--no-wallet"));
    let both = GlobalArgs {
        wallet: Some(WalletKind::Sim),
        ..owner.flags()
    };
    assert!(refused(without(&both)).contains("exclude"));
}

#[test]
fn a_file_that_was_named_must_exist_and_a_fault_must_be_one() {
    let owner = Owner::with("[wallet]\nkind = \"sim\"");
    let named = GlobalArgs {
        config: Some(owner.folder.path().join("missing.toml")),
        ..owner.flags()
    };
    assert!(refused(owner.settings(&named, Environment::of([]))).contains("no such file"));
    let wrong = Environment::of([(SIM_FAULT_VARIABLE, "meteor")]);
    assert!(refused(owner.settings(&owner.flags(), wrong)).contains(SIM_FAULT_VARIABLE));
}
