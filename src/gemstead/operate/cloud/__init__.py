"""Google Cloud as a place: Cloud Run and Vertex AI, by their REST forms, with who we are from google-auth."""
