"""PostgreSQL: connections, the calls, the SQL files, the migrations. Decides no policy."""
