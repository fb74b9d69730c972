"""What filemill runs on: embedded servers, migrations, images."""
