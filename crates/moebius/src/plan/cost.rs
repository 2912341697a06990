//! What tokens cost, from watts and prices that somebody states.

/// Watts and prices; what is not stated is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Watts of one device under this load.
    pub watts: Option<f64>,
    /// Price of one device for an hour.
    pub device_hour: Option<f64>,
    /// Price of a kilowatt-hour.
    pub kilowatt_hour: Option<f64>,
}

/// What a million tokens take.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Joules of one token.
    pub joules_per_token: Option<f64>,
    /// Price of a million tokens: devices and, where its price is stated, electricity.
    pub million_tokens: Option<f64>,
}

impl Rates {
    /// What tokens cost at `tokens_per_second` on `devices` devices.
    pub fn cost(&self, tokens_per_second: f64, devices: u32) -> Cost {
        const JOULES_PER_KWH: f64 = 3.6e6;
        let devices = f64::from(devices);
        let joules_per_token = self.watts.map(|watts| watts * devices / tokens_per_second);
        let rent = self.device_hour.map(|price| price * devices / 3600.0 / tokens_per_second * 1e6);
        let power = self
            .kilowatt_hour
            .zip(joules_per_token)
            .map(|(price, joules)| price * joules * 1e6 / JOULES_PER_KWH);
        // A price of electricity without watts is not a price of nothing.
        let unknown_power = self.kilowatt_hour.is_some() && power.is_none();
        let million_tokens = match (rent, power) {
            _ if unknown_power => None,
            (None, None) => None,
            (rent, power) => Some(rent.unwrap_or(0.0) + power.unwrap_or(0.0)),
        };
        Cost { joules_per_token, million_tokens }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_as_by_hand_and_unknown_without_rates() {
        let rates = Rates { watts: Some(500.0), device_hour: Some(2.0), kilowatt_hour: Some(0.36) };
        let cost = rates.cost(1000.0, 2);
        assert_eq!(cost.joules_per_token, Some(1.0));
        // A million tokens take 1000 s: two devices for 1/3.6 hour, and 1 MJ.
        let expected = 4.0 / 3.6 + 0.36 / 3.6;
        assert!(cost.million_tokens.is_some_and(|got| (got - expected).abs() < 1e-12), "{cost:?}");
        assert_eq!(Rates::default().cost(1000.0, 2), Cost::default());
        let without_watts = Rates { watts: None, ..rates };
        assert_eq!(without_watts.cost(1000.0, 2).million_tokens, None);
    }

    #[test]
    fn a_day_of_a_published_service_costs_what_was_published() {
        let rates = Rates { device_hour: Some(2.0), ..Rates::default() };
        let devices = 1814; // 226.75 nodes of 8
        let tokens_per_day = 168e9;
        let cost = rates.cost(tokens_per_day / 86_400.0, devices).million_tokens.expect("a price");
        assert!((cost * tokens_per_day / 1e6 - 87_072.0).abs() < 1e-3);
    }
}
