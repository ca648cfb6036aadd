//! A preimage in the JSON of a purchase: 64 hex digits, in the ledger and nowhere else.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::Preimage;

#[expect(clippy::ref_option, reason = "serde's signature")]
pub(super) fn serialize<S: Serializer>(of: &Option<Preimage>, to: S) -> Result<S::Ok, S::Error> {
    of.map(|preimage| preimage.reveal()).serialize(to)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Preimage>, D::Error> {
    Option::<String>::deserialize(from)?
        .map(|text| text.parse().map_err(serde::de::Error::custom))
        .transpose()
}

/// One that is there.
pub(super) mod one {
    use super::{Deserialize as _, Deserializer, Preimage, Serialize as _, Serializer};

    pub(in crate::purchase) fn serialize<S: Serializer>(
        of: &Preimage,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        of.reveal().serialize(to)
    }

    pub(in crate::purchase) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Preimage, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
