"""What the suite is measured against: the regression check and its golden values."""
