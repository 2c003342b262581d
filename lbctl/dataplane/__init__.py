"""Data paths behind one port: `port` says what each must do, `plan` what to ask of it."""
